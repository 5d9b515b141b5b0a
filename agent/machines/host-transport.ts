/** The way of a move's bytes: the agents' own ports, or the control plane's gateways where there is no other. */
import { createHash } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { type Move, MoveType } from "#gen/skerry/agent/v1/migration_pb.js";
import type { Credentials } from "../control/identity.ts";
import { directOpener, relayOpener } from "../migration/opener.ts";
import { type MoveLimits, postCopyWindowBytes } from "../migration/protocol.ts";
import type { MoveSources } from "../migration/pull-handler.ts";
import { MovePuller } from "../migration/puller.ts";
import { MoveSource } from "../migration/source.ts";
import type { MoveOffer, MovePull, MoveTransport } from "./move-transport.ts";

export interface HostTransportDeps {
  /** Where pulls find the moves that leave this host. */
  readonly sources: MoveSources;
  readonly identity: { readonly credentials: Credentials };
  /** Addresses `host:port` of gateways, any of which may pass a pull on. */
  readonly gateways: readonly string[];
  readonly log: Logger;
}

/** What a socket's path may have, less the longest of their names. */
const longestDirectory = 107 - "/disk-12345678901234567890.sock".length;

export function createHostTransport(deps: HostTransportDeps): MoveTransport {
  const { sources, identity, gateways, log } = deps;
  return {
    async offer({ move, channels, directory }): Promise<MoveOffer> {
      const source = await MoveSource.open({
        ...{ migrationId: move.migrationId, ticket: move.ticket, peerHostId: move.peerHostId },
        expiresAtMs: Number(move.expiresAtMs),
        socketDirectory: socketDirectory(directory),
        limits: limitsOf(move),
        ...{ channels, log },
      });
      const listed = sources.add(source);
      return {
        socketOf: (channel) => source.socketOf(channel),
        stats: () => source.stats(),
        get fault() {
          return source.fault;
        },
        [Symbol.asyncDispose]: async () => {
          listed[Symbol.dispose]();
          await source[Symbol.asyncDispose]();
        },
      };
    },

    pull({ move, channels, connect }): MovePull {
      const { migrationId, ticket, peerHostId: hostId, peerAddress: address } = move;
      const direct = address === "" ? [] : [directOpener({ address, hostId, identity })];
      const relays = gateways.map((gateway) => relayOpener({ address: gateway, hostId, identity }));
      const openers = [...direct, ...relays];
      const puller = new MovePuller({
        ...{ migrationId, ticket, channels, openers, connect, log },
        limits: limitsOf(move),
      });
      const stop = new AbortController();
      const ended = puller.run(stop.signal);
      return {
        ended,
        stats: () => puller.stats(),
        [Symbol.asyncDispose]: async () => {
          stop.abort(new Fault("unavailable", "the move is over here", { reason: "MOVE_OVER" }));
          await ended.catch((thrown: unknown) => toFault(thrown)); // told to whoever watches `ended`
        },
      };
    },
  };
}

function limitsOf({ bandwidthLimit, type }: Move): Partial<MoveLimits> {
  return {
    bytesPerSecond: Number(bandwidthLimit),
    ...(type === MoveType.POSTCOPY && { windowBytes: postCopyWindowBytes }),
  };
}

/**
 * The machine's own folder, or, where its path is too long for a socket, one that is found again by the same name:
 * a hypervisor whose connection was cut comes back to it, also after the agent was killed.
 */
function socketDirectory(machineDirectory: string): string {
  if (Buffer.byteLength(machineDirectory) <= longestDirectory) return machineDirectory;
  const name = createHash("sha256").update(machineDirectory).digest("hex").slice(0, 20);
  return join(tmpdir(), `skerry-${name}`);
}
