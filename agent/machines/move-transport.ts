/** What carries a move's bytes between two hosts, as far as machines care. */
import type { Duplex } from "node:stream";
import type { Fault } from "#kernel/fault.ts";
import type { Move } from "#gen/skerry/agent/v1/migration_pb.js";
import type { HeldSocket, MachinePlan, MemoryBacklog } from "../drivers/driver.ts";
import type { GuestMemory } from "../migration/guest-memory.ts";
import type { MoveStats } from "../migration/stats.ts";

export interface MoveCargo {
  readonly move: Move;
  /** The machine; the image that it was made from is on the other host too. */
  readonly plan: MachinePlan;
  readonly channels: readonly string[];
}

export interface MoveTransport {
  /** Source: listens where the hypervisor will connect, and hands over to the peer that pulls. */
  offer(cargo: MoveCargo): Promise<MoveOffer>;
  /** Destination: begins to pull from the source's host. */
  pull(cargo: MoveCargo & HypervisorEnd): MovePull;
}

/** The hypervisor of a destination. */
export interface HypervisorEnd {
  /** Called before the source is asked for a channel. */
  readonly ready?: ReadyChannel;
  /** Where the guest's memory is written, if not by the hypervisor. */
  readonly memory?: OpenMemory;
  readonly connect: ConnectChannel;
}

export type ReadyChannel = (channel: string, signal: AbortSignal) => Promise<void>;

export type OpenMemory = (signal: AbortSignal) => Promise<GuestMemory | undefined>;

/** Opens a connection to the hypervisor's end of a channel. */
export type ConnectChannel = (channel: string, signal: AbortSignal) => Promise<Duplex>;

/** It lives as long as the move; dispose it to cut the connections. */
export interface MoveOffer extends AsyncDisposable {
  socketOf(channel: string): string;
  /** Nothing of a channel is carried, whoever connects and pulls, until it is released. */
  hold(channel: string): HeldSocket;
  /** True once the peer is there to take what is sent of the disks; false when it has not come within `limitMs`. */
  awaitPulls(limitMs: number, signal: AbortSignal): Promise<boolean>;
  /** Of the machine's memory; none: nobody here may say how much of it is on its way. */
  readonly backlog?: MemoryBacklog | undefined;
  /** Why the machine's memory could not be carried on; the hypervisor knows only that its connection closed. */
  readonly fault: Fault | undefined;
  stats(): MoveStats;
}

export interface MovePull extends AsyncDisposable {
  /** Resolves when every channel has ended in order; rejects with a Fault when one cannot be carried on. */
  readonly ended: Promise<void>;
  /** The guest is about to run: its disks are here and are let go of, and its memory goes on where it is cut. */
  enterPostCopy(): void;
  stats(): MoveStats;
}
