/**
 * How the bytes of a move travel. The hypervisors at both ends believe that they talk to each other over unix
 * sockets; each such connection is a channel with a name ("memory", "disk:root"). In between are two agents:
 *
 *     source QEMU --unix--> source agent ====mTLS, gRPC====> destination agent --unix--> destination QEMU
 *                                                                          `-- pages --> its memory
 *
 * The destination is the client and pulls: one call `MigrationService.Pull` per channel, because only a client can ask
 * for a large flow-control window. Both ends speak gRPC by hand, in memory that is used again and again (slabs.ts). Where
 * the two cannot reach each other, the control plane passes the same call on.
 *
 *     destination agent                    source agent                     source QEMU
 *       | PullOpen{version, ticket, channel} |                                  |
 *       |----------------------------------->| checks peer and ticket, waits    |
 *       |                                    |<--------------- connects --------|
 *       |<------------- frame 1, empty ------|                                  |
 *       | connects to its own QEMU           |<--------------- bytes -----------|
 *       |<------------- frame 2 .. n --------|                                  |
 *       | taken{k} ------------------------->| (each so many bytes)             |
 *       | data (what its QEMU answers) ----->|---------------- bytes ---------->|
 *       |<-- frame, empty, when it is quiet -|                                  |
 *       |                                    |<--------------- closes ----------|
 *       |<------------- frame, end ----------|                                  |
 *       |<------------- status OK -----------|                                  |
 *
 * Layout. Messages are proto3 (migration.proto) behind gRPC's five bytes: a zero and the length, big-endian. A frame
 * (`PullResponse`) stands for `raw_length` bytes that the source's hypervisor wrote:
 *
 *     hypervisor's bytes --sorting--> block --page stage--> block --codec--> data       and back, in the opposite order
 *
 * - `sorted`: the pages of the guest's memory are apart from the rest of the stream (pages/sorted-block.ts), because the
 *   destination has said (`placed_memory`) that its agent writes them itself (guest-memory.ts). Its hypervisor is told the
 *   rest, as if there were no such pages. Frames are written in any order, except those that are `alone`: a page may have
 *   been in a frame before. What is for the hypervisor it gets when all pages before that have been written.
 * - `checksum` is XXH64 of the hypervisor's bytes, sorted or not, so it covers stage, codec and every buffer in between.
 * - `codec` none, lz4 (one block), zstd (one frame) or, for memory, zstd-long is chosen for each frame by what is fastest
 *   at that moment; what would not shrink stays as it is. The frames of one call that are zstd-long are pieces of one zstd
 *   frame, each flushed, and refer to what the pieces before them held, up to 16 MiB back.
 * - `staged`: pages that both hosts have in an image file are replaced by where they are; see pages/block.ts.
 * - `ask_taken`: the destination says `taken` when this frame is where it belongs. So the source knows how much is on its
 *   way between the two hypervisors (backlog.ts), and keeps that within a limit, which is low when the guest is about to
 *   stop: what is on its way then keeps it standing still.
 * - `sequence` counts from 1 on each call. A gap, a wrong checksum or a wrong length is corruption.
 * - `PullOpen.version` is what the destination speaks; the source answers with that or refuses.
 *
 * A channel at the source:
 *
 *     | state     | hypervisor connects | Pull          | hypervisor ends       | call cut, stalled, aborted     |
 *     |-----------|---------------------|---------------|-----------------------|--------------------------------|
 *     | idle      | connected           | pulled        |                       |                                |
 *     | connected | connected (newest)  | paired        | idle                  |                                |
 *     | pulled    | paired              | pulled (new)  |                       | idle                           |
 *     | paired    | idle, then pairs    | idle, pulled  | ended: `end`, OK      | idle; hypervisor's socket shut |
 *
 * A channel may be held at the source: it stays connected, pulled or both until it is released, and nothing is carried.
 * So QEMU begins its stream of memory, which takes it a while before it says anything, before its turn has come.
 *
 * A channel at the destination:
 *
 *     | state   | frame                     | end                  | call cut, stalled      | corrupt, hypervisor gone |
 *     |---------|---------------------------|----------------------|------------------------|--------------------------|
 *     | opening | flowing: hypervisor dialled | ended              | opening, after a pause | failed                   |
 *     | flowing | flowing                   | ended                | opening if resumable   | opening if resumable     |
 *     | ended, failed |                     |                      |                        |                          |
 *
 * Disk channels are resumable: their hypervisor connects anew and repeats what was not answered. Memory is not, except
 * while nothing of it has been sent, and in post-copy, where the two hypervisors agree anew on what is missing. What cannot be resumed fails, and the call ends with a message that says why:
 * `PullAbort` from the destination, the call's status from the source. A connection that was cut (MOVE_CUT), one that is
 * silent while something should come (MOVE_STALLED) and one that brings wrong bytes (MOVE_CORRUPTED) are three faults.
 */
import { Fault } from "#kernel/fault.ts";

export const protocolVersion = 1;

export const pullPath = "/skerry.agent.v1.MigrationService/Pull";

/** In the metadata of a pull through the control plane: whose channel is wanted. */
export const sourceHostKey = "skerry-source-host";

export const memoryChannel = "memory";

/** What one frame may stand for at most; a frame that claims more is corrupt. */
export const maxRawBytes = 1024 * 1024;

/** No message of this protocol is longer. */
export const maxMessageBytes = maxRawBytes + 64 * 1024;

/** Bounds of a move's use of memory and time; the same kind for both ends. */
export interface MoveLimits {
  /** Frames are filled up to this. */
  readonly blockBytes: number;
  /** Of a channel, between its hypervisor's socket and the network: what is being coded or waits. */
  readonly inFlightBytes: number;
  /** Between the two hypervisors, in bytes of theirs, unless the source is asked to keep it less. */
  readonly backlogBytes: number;
  /** What the source may send before the destination has taken it in. */
  readonly windowBytes: number;
  /** Silence longer than this, while something should come, is a fault. */
  readonly stallMs: number;
  /** How long a destination goes on trying to open a channel. */
  readonly openMs: number;
  /** On the wire, all channels of a move together; 0: no limit. */
  readonly bytesPerSecond: number;
}

export const defaultLimits: MoveLimits = {
  blockBytes: 512 * 1024,
  inFlightBytes: 16 * 1024 * 1024,
  backlogBytes: 32 * 1024 * 1024,
  windowBytes: 8 * 1024 * 1024,
  stallMs: 12_000,
  openMs: 120_000,
  bytesPerSecond: 0,
};

/**
 * For post-copy: a page that the guest waits for must not queue behind megabytes of others, nor for long behind a dead
 * connection; and what is lost with the source is lost for good, so it is waited for.
 */
export const postCopyLimits: Partial<MoveLimits> = {
  blockBytes: 128 * 1024,
  inFlightBytes: 512 * 1024,
  backlogBytes: 2 * 1024 * 1024,
  windowBytes: 512 * 1024,
  stallMs: 10_000,
  openMs: 15 * 60_000,
};

export function isDisk(channel: string): boolean {
  return channel.startsWith("disk:");
}

export function cut(cause?: unknown): Fault {
  return new Fault("unavailable", "the connection to the other host was cut", { reason: "MOVE_CUT", cause });
}

export function stalled(stallMs: number): Fault {
  return new Fault("unavailable", `the other host was silent for ${String(stallMs / 1000)} s`, {
    reason: "MOVE_STALLED",
  });
}

export function corrupted(what: string): Fault {
  return new Fault("internal", `the other host's data arrived damaged: ${what}`, {
    reason: "MOVE_CORRUPTED",
    retryable: true,
  });
}

export function hypervisorGone(cause: unknown): Fault {
  return new Fault("unavailable", "the hypervisor closed a channel of the move", {
    reason: "MOVE_HYPERVISOR_GONE",
    cause,
  });
}

/** What the other agent said when it gave a channel up. */
export function abortedByPeer(reason: string, message: string): Fault {
  return new Fault("unavailable", `the other host gave the move up: ${message}`, {
    reason: "MOVE_ABORTED",
    detail: { reason },
  });
}
