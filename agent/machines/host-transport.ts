/** The way of a move's bytes: the agents' own ports, or the control plane's gateways where there is no other. */
import { createHash } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { type Move, MoveType } from "#gen/skerry/agent/v1/migration_pb.js";
import type { Credentials } from "../control/identity.ts";
import { diskOf, type MachinePlan } from "../drivers/driver.ts";
import { LostTrials } from "../migration/coding/lost-trials.ts";
import type { CodingWorkers } from "../migration/coding/workers.ts";
import { directOpener, relayOpener } from "../migration/opener.ts";
import type { PageFiles, PageSource } from "../migration/pages/page-files.ts";
import type { PageStageOptions } from "../migration/pages/stage.ts";
import { isDisk, type MoveLimits, postCopyLimits } from "../migration/protocol.ts";
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
  /** Threads for all moves of this host. */
  readonly workers: CodingWorkers;
  /** For the page stage; absent where a machine's stream is not QEMU's. */
  readonly pageFiles: PageFiles | undefined;
  readonly log: Logger;
}

/** What a socket's path may have, less the longest of their names. */
const longestDirectory = 107 - "/disk-12345678901234567890.sock".length;

export function createHostTransport(deps: HostTransportDeps): MoveTransport {
  const { sources, identity, gateways, workers, log } = deps;
  const lostTrials = new LostTrials();
  return {
    async offer({ move, plan, channels }): Promise<MoveOffer> {
      const source = await MoveSource.open({
        ...{ migrationId: move.migrationId, ticket: move.ticket, peerHostId: move.peerHostId },
        expiresAtMs: Number(move.expiresAtMs),
        socketDirectory: socketDirectory(plan.directory),
        wanOptimization: wanOptimizationOf(move),
        limits: limitsOf(move),
        ...pagesOf(move, plan, deps.pageFiles),
        ...{ channels, workers, lostTrials, log },
      });
      const listed = sources.add(source);
      return {
        socketOf: (channel) => source.socketOf(channel),
        hold: (channel) => source.hold(channel),
        awaitPulls: (limitMs, signal) => source.awaitPulls(limitMs, signal),
        stats: () => source.stats(),
        backlog: source.backlog,
        get fault() {
          return source.fault;
        },
        [Symbol.asyncDispose]: async () => {
          listed[Symbol.dispose]();
          await source[Symbol.asyncDispose]();
        },
      };
    },

    pull({ move, plan, channels, ready, memory, connect }): MovePull {
      const { migrationId, ticket, peerHostId: hostId, peerAddress: address } = move;
      const direct = address === "" ? [] : [directOpener({ address, hostId, identity })];
      const relays = gateways.map((gateway) => relayOpener({ address: gateway, hostId, identity }));
      const openers = [...direct, ...relays];
      let goesOn = false;
      const puller = new MovePuller({
        ...{ migrationId, ticket, channels, openers, connect, workers, log },
        ...(ready && { ready }),
        ...(memory && { memory }),
        resumable: (channel) => goesOn || isDisk(channel),
        ...pagesOf(move, plan, deps.pageFiles),
        limits: limitsOf(move),
      });
      const stop = new AbortController();
      const ended = puller.run(stop.signal);
      return {
        ended,
        enterPostCopy: () => {
          goesOn = true;
          puller.leaveDisks();
        },
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
    ...(type === MoveType.POSTCOPY && postCopyLimits),
  };
}

function wanOptimizationOf({ wanOptimization }: Move): "auto" | "on" | "off" {
  return wanOptimization === "on" || wanOptimization === "off" ? wanOptimization : "auto";
}

/** The files of the image, which both hosts have; not for post-copy, whose pages come in no order. */
function pagesOf(
  { type }: Move,
  { spec, image }: MachinePlan,
  files: PageFiles | undefined,
): { readonly pages?: PageStageOptions } {
  if (!files || type === MoveType.POSTCOPY || (image.type !== "disk" && image.type !== "kernel")) return {};
  const disk = diskOf(image);
  const paths: Readonly<Record<string, Omit<PageSource, "sha256">>> = {
    ...(image.type === "kernel" && {
      kernel: { path: image.kernelPath, format: "raw" },
      initrd: { path: image.initrdPath, format: "raw" },
    }),
    ...(disk && { disk: { path: disk.path, format: disk.format } }),
  };
  const sources = (spec.image?.files ?? []).flatMap(({ role, sha256 }) => {
    const found = paths[role];
    return found ? [{ sha256, ...found }] : [];
  });
  return { pages: { files, sources } };
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
