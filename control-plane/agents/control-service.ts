/**
 * What agents call on the gateway. Decides who may call what; the work itself is done behind the
 * interfaces below.
 */
import { createContextKey, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import type { ControlService } from "#gen/skerry/control/v1/control_pb.js";
import type { HostFacts, HostLabels } from "#gen/skerry/agent/v1/host_pb.js";
import { Fault } from "#kernel/fault.ts";
import type { Authority, VerifiedPeer } from "./authority.ts";

export interface EnrolHost {
  /** `<id>.<secret>` of the enrolment token. */
  readonly token: string;
  readonly name: string;
  readonly labels: HostLabels | undefined;
  readonly facts: HostFacts | undefined;
  /**
   * SHA-256 of the key that asks. An agent whose answer was lost asks again with the same key: a token used
   * by this very key may answer with the same host once more.
   */
  readonly keyPin: string;
}

export interface HostRegistry {
  /** Uses the token up and makes the host known. Throws when the token is unknown, used or expired. */
  enrol(host: EnrolHost): Promise<{ readonly hostId: string }>;
  /** False once the host was removed or its identity revoked. */
  renewable(hostId: string): Promise<boolean>;
}

export interface FileSource {
  /** Content that was uploaded to this cloud, from a byte offset on; throws `notFound`. */
  open(sha256: string, offset: number, signal: AbortSignal): AsyncIterable<Uint8Array>;
}

/** Who is on the other end of a connection, worked out once per connection. */
export interface Caller {
  readonly peer: VerifiedPeer | undefined;
  /** Throws once the host has been removed; remembers that it has not. */
  admit(): Promise<void>;
}

export const callerKey = createContextKey<Caller>({ peer: undefined, admit: () => Promise.resolve() });

export interface ControlServiceDeps {
  readonly authority: Authority;
  readonly registry: HostRegistry;
  readonly files: FileSource;
}

/** HTTP/2 data frames are small; a message of this size keeps the overhead low and memory bounded. */
const chunkBytes = 256 * 1024;

export function controlService(deps: ControlServiceDeps): ServiceImpl<typeof ControlService> {
  const { authority, registry, files } = deps;
  return {
    async enrol({ token, certificateRequest, name, labels, facts }) {
      // Before the token is used up, so that a bad request does not cost it.
      const keyPin = await authority.pinOfRequest(certificateRequest);
      const { hostId } = await registry.enrol({ token, name, labels, facts, keyPin });
      const certificate = await authority.issueHost(hostId, certificateRequest);
      return { hostId, certificate, authorities: authority.certificatePem };
    },

    async renew({ certificateRequest }, context) {
      const hostId = hostOf(context.values.get(callerKey).peer, { expired: true });
      if (!(await registry.renewable(hostId))) throw hostRemoved();
      const certificate = await authority.issueHost(hostId, certificateRequest);
      return { certificate, authorities: authority.certificatePem };
    },

    async *fetchFile({ sha256, offset }, context) {
      await requireHost(context);
      if (!/^[0-9a-f]{64}$/.test(sha256) || offset > BigInt(Number.MAX_SAFE_INTEGER)) {
        throw new Fault("notFound", "there is no such file", { reason: "FILE_NOT_FOUND" });
      }
      for await (const data of files.open(sha256, Number(offset), context.signal)) {
        for (let at = 0; at < data.length; at += chunkBytes)
          yield { data: data.subarray(at, at + chunkBytes) };
      }
    },
  };
}

async function requireHost(context: HandlerContext): Promise<string> {
  const caller = context.values.get(callerKey);
  const hostId = hostOf(caller.peer);
  await caller.admit();
  return hostId;
}

/** The host's id; throws unless the peer is one, with a certificate that is valid or, if allowed, was. */
export function hostOf(peer: VerifiedPeer | undefined, allow: { expired?: true } = {}): string {
  if (!peer) {
    throw new Fault("unauthenticated", "a certificate of this cloud is required", {
      reason: "CERTIFICATE_REQUIRED",
    });
  }
  if (peer.role !== "host") {
    throw new Fault("denied", "only hosts may call this", { reason: "NOT_A_HOST" });
  }
  if (peer.expired && !allow.expired) {
    throw new Fault("unauthenticated", "the host's certificate has expired: renew it", {
      reason: "CERTIFICATE_EXPIRED",
    });
  }
  return peer.name;
}

/** What a removed host is told. */
export function hostRemoved(): Fault {
  return new Fault("denied", "this host was removed from the cloud: join again with a new token", {
    reason: "HOST_REMOVED",
  });
}
