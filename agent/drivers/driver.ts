/**
 * What a hypervisor must offer the agent. The core is what every driver can do; what only some can
 * is an optional member, so that the type says what works. A driver keeps nothing that it cannot
 * find again after the agent was killed: machines outlive the agent.
 */
import type { Duplex } from "node:stream";
import type { MachineSpec } from "#gen/skerry/agent/v1/machine_pb.js";
import type { GuestMemory } from "../migration/guest-memory.ts";

/** A disk that others are made of. */
export interface DiskFile {
  readonly path: string;
  readonly format: "qcow2" | "raw";
}

/** An image whose files are on this host, verified, and must not be written to. */
export type LocalImage =
  | ({ readonly type: "disk" } & DiskFile)
  | {
      readonly type: "kernel";
      readonly kernelPath: string;
      readonly initrdPath: string;
      readonly commandLine: string;
      /** What the machine's disk begins with; undefined: with nothing. */
      readonly disk?: DiskFile;
    }
  /** An OCI archive. */
  | { readonly type: "archive"; readonly path: string; readonly sha256: string }
  /** What the host's container engine has taken in, and what it calls it. */
  | { readonly type: "container"; readonly reference: string }
  /** Nothing: the machine was there before us. */
  | { readonly type: "none" };

/** What the root disk of a machine that starts from this image begins with. */
export function diskOf(image: LocalImage): DiskFile | undefined {
  if (image.type === "disk") return image;
  return image.type === "kernel" ? image.disk : undefined;
}

/** One machine as it should be. `spec.power` decides whether it runs. */
export interface MachinePlan {
  readonly id: string;
  readonly spec: MachineSpec;
  readonly image: LocalImage;
  /** The machine's own folder: disks, sockets' links, console log. The driver makes and removes it. */
  readonly directory: string;
  /** Of a container: devices of the host's that it was given. */
  readonly devices?: readonly string[];
}

export type DriverState = "starting" | "running" | "paused" | "stopping" | "stopped";

/** One machine as the driver finds it. */
export interface DriverMachine {
  readonly id: string;
  readonly state: DriverState;
  readonly vcpus: number;
  readonly memoryBytes: bigint;
  readonly diskBytes: bigint;
  /** Names of spec fields that take effect at the next start. */
  readonly pendingRestart: readonly string[];
  readonly guestAddress: string;
  readonly forwards: readonly {
    readonly protocol: string;
    readonly guestPort: number;
    readonly hostPort: number;
    readonly hostAddress: string;
  }[];
  readonly startedAt: Date | undefined;
  readonly acceleration: "kvm" | "tcg" | "none";
  /** While it runs: how it was built, in the driver's own words; see `Move.guest_shape`. */
  readonly guestShape?: string;
  /** Why its guest stands still though nobody asked for that; to be made to run again goes on from where it was. */
  readonly stuck?: { readonly reason: string; readonly message: string };
  /** While it runs: the name of what keeps it from moving as it runs. */
  readonly moveBlocker?: string;
  /** While it runs: what its guest sees, whatever the host could give a new one. */
  readonly model?: { readonly machineType: string; readonly cpuModel: string };
  /**
   * The migration since which the driver knows what was written to its disks; see `Move.baseline`. Of a machine that
   * is to arrive: the one after which the disks that it has taken were kept.
   */
  readonly baseline?: string;
  /** What runs it, where that is not what runs the host's other machines. */
  readonly driver?: string;
  /** Told by `recover` only: it ended by itself, since the host was started, while nobody looked. */
  readonly ended?: { readonly at: Date; readonly clean: boolean; readonly detail: string };
  /** Of a container only. */
  readonly container?: {
    readonly health: "" | "starting" | "healthy" | "unhealthy";
    readonly exited: boolean;
    readonly exitCode: number;
    readonly gpus: string[];
    /** Those that the host no longer has. */
    readonly missingGpus: string[];
  };
}

/** Something happened that nobody asked for, or that was waited for; the manager looks again. */
export type MachineEvent =
  /** Its process ended. `clean`: the guest powered itself off. */
  | { readonly id: string; readonly type: "ended"; readonly clean: boolean; readonly detail: string }
  | { readonly id: string; readonly type: "changed" };

export interface DriverFacts {
  readonly version: string;
  readonly acceleration: "kvm" | "tcg" | "none";
  readonly accelerationReason: string;
  readonly capabilities: readonly string[];
}

/** Counters since the machine started; the manager turns CPU seconds into usage. */
export interface DriverMetrics {
  readonly cpuSeconds: number;
  readonly memoryUsedBytes: bigint;
  readonly memoryTotalBytes: bigint;
  readonly diskReadBytes: bigint;
  readonly diskWriteBytes: bigint;
  readonly diskReadOperations: bigint;
  readonly diskWriteOperations: bigint;
  readonly networkInBytes: bigint;
  readonly networkOutBytes: bigint;
  readonly diskAllocatedBytes: bigint;
}

export interface MachineDriver extends AsyncDisposable {
  readonly name: "qemu" | "libvirt" | "podman" | "fake";
  /** What this host can do, proved by trying. May take as long as booting a guest. */
  probe(signal: AbortSignal): Promise<DriverFacts>;
  /** Finds what still runs of `plans` after our restart and watches it again. Runs once, before `ensure`. */
  recover(plans: readonly MachinePlan[], signal: AbortSignal): Promise<readonly DriverMachine[]>;
  /**
   * Creates the machine or converges it to the plan, power included; safe to repeat. A running machine
   * whose size grew gets what can be plugged in; the rest is named in `pendingRestart`. Powering off asks
   * the guest, waits `spec.stopTimeoutSeconds`, then pulls the plug. Aborting leaves something that a
   * later `ensure` can carry on from. Throws a Fault: `exhausted` when the host is full, `invalid` when
   * the plan can never work (such as a disk that would shrink).
   */
  ensure(plan: MachinePlan, signal: AbortSignal): Promise<DriverMachine>;
  /**
   * Ends the machine at once and deletes its folder. Absent is success. With `keepDisks`, disks that a move has taken
   * away whole stay in the folder, marked stale with its id: they are no machine any more, only what a move back may
   * start from. Removing it again without `keepDisks` deletes them, and so does whatever makes a machine there anew.
   */
  remove(id: string, directory: string, signal: AbortSignal, options?: RemoveOptions): Promise<void>;
  /** Undefined when there is no such machine. */
  inspect(id: string): Promise<DriverMachine | undefined>;
  /** Events from now on, until the signal aborts. One consumer. */
  events(signal: AbortSignal): AsyncIterable<MachineEvent>;
  /** Undefined when it does not run. */
  metrics(id: string): Promise<DriverMetrics | undefined>;
  readonly console?: ConsoleAccess;
  readonly liveMigration?: LiveMigration;
  readonly foreign?: ForeignMachines;
  readonly diskCopies?: DiskCopies;
}

/** How much of a disk is copied, and how much there is. */
export type CopyProgress = (doneBytes: bigint, totalBytes: bigint) => void;

export interface DiskCopies {
  /**
   * Writes all that the machine's disk holds, its image included, to a new file that stands alone, qcow2 or raw: as it
   * is at one moment while the machine runs, as if its plug had been pulled then. Nothing else is asked of the machine
   * until it resolves; aborting leaves the disk free and maybe a part of the file.
   */
  copyDisk(plan: MachinePlan, path: string, progress: CopyProgress, signal: AbortSignal): Promise<void>;
}

export interface RemoveOptions {
  readonly keepDisks: boolean;
  /** What becomes of a machine that was adopted; others are deleted. Default: it is handed back as it is. */
  readonly adoptionEnd?: AdoptionEnd;
}

export type AdoptionEnd = "release" | "stop" | "delete";

/**
 * Machines of this host that somebody else made. One becomes ours by `ensure` with a plan whose `spec.adoption` names
 * it: it is taken over as it is, running or not, and marked, so that nobody else adopts it. `invalid` NOT_ADOPTABLE
 * when it has what a machine of ours cannot have.
 */
export interface ForeignMachines {
  list(signal: AbortSignal): Promise<readonly ForeignMachine[]>;
}

export interface ForeignMachine {
  readonly uuid: string;
  readonly name: string;
  readonly state: DriverState;
  readonly vcpus: number;
  readonly memoryBytes: bigint;
  readonly disks: readonly {
    /** The guest's name for it. */
    readonly target: string;
    readonly sizeBytes: bigint;
    readonly format: string;
  }[];
  /** Each reason why it cannot be adopted. */
  readonly obstacles: readonly { readonly code: string; readonly message: string }[];
}

/**
 * Moving machines between hosts that share nothing. The hypervisors' connections (memory, and one for
 * each disk) are channels with names; whoever carries their bytes to the other host is none of the
 * driver's business. Everything here looks at what is true now and carries on from there, so each call
 * may be aborted and repeated, also by an agent that was killed meanwhile. `ensure` with a plan that has
 * no `spec.move` ends a move: where the machine came from, it is called off and the guest goes on; where
 * it has arrived whole, the guest runs.
 */
export interface LiveMigration {
  /** How guests are started here; both hosts of a live move must agree. */
  readonly guestModel: () => Promise<GuestModel>;
  /** Present where a guest can run at the destination before all of its memory has arrived. */
  readonly postCopy?: PostCopy | undefined;
  /**
   * Destination: makes the machine of a plan whose `spec.move` says so, stopped, waiting for its state.
   * Gives the names of its channels. `conflict` MOVE_LOST when what had begun to arrive is gone. Disks that are kept
   * since the plan's `spec.move.baseline` are taken in place of new ones, which `inspect` tells; nothing else is.
   */
  receive(plan: MachinePlan, signal: AbortSignal): Promise<readonly string[]>;
  /**
   * Destination: sees to it that the hypervisor can be connected for a channel, where that takes more than listening: in
   * post-copy, `memory` goes on where it was cut. To be called before the source's hypervisor is given a connection,
   * for that one may not come back from a connection that leads nowhere.
   */
  readyChannel?(id: string, channel: string, signal: AbortSignal): Promise<void>;
  /** Destination: a new connection to the hypervisor's end of a channel. */
  connectChannel(id: string, channel: string, signal: AbortSignal): Promise<Duplex>;
  /**
   * Destination: the memory of a machine that waits for its state, to be written by whoever has its pages while the channel
   * `memory` brings the rest. Undefined where only its hypervisor can.
   */
  openMemory?(id: string, signal: AbortSignal): Promise<GuestMemory | undefined>;
  /** Destination: true when the whole machine has arrived and the guest could run. */
  hasArrived(id: string): Promise<boolean>;
  /** Source: the names of the channels that a move of this machine will use. */
  listChannels(id: string): Promise<readonly string[]>;
  /**
   * Source: does ahead of `send`, while the other host makes itself ready, what takes a while and needs nothing of it. May
   * be left out. Called again it ends what it has begun: the other host takes long.
   */
  getReady?(plan: MachinePlan, hold: (channel: string) => HeldSocket, signal: AbortSignal): Promise<void>;
  /**
   * With `spec.move.baseline` the other end's disks are as that migration left them: only what was written since is
   * copied, or, where that is not known, all of it.
   *
   * Source: moves the machine of a plan whose `spec.move` says so, from wherever the move stands, telling
   * how it goes about every half second and at each change of phase; ends after phase `handed-over` was
   * told: the guest is stopped for good and all has arrived. Until `spec.move.switchOver` it keeps the guest
   * running, with phase `converged` once only that is missing. A post-copy that needs to be one ends with phase
   * `post-copy` instead, the guest stopped and its disks whole, and goes on from there for a plan that is `committed`.
   * The hypervisor connects to `socketOf(channel)`, where somebody listens; `backlog` is of its memory. Aborting changes
   * nothing; a move that fails leaves the guest running, unless it may have been handed over, and throws.
   */
  send(
    plan: MachinePlan,
    socketOf: (channel: string) => string,
    signal: AbortSignal,
    backlog?: MemoryBacklog,
  ): AsyncIterable<SendProgress>;
}

/** What a hypervisor has said of its memory, and the one at the other host has not heard. */
export interface MemoryBacklog {
  readonly bytes: number;
  /** How long it takes at least to say something and hear that it has been heard; 0: not known. */
  readonly answerMs: number;
  /** No more than that from here on; undefined: as much as is quickest. */
  limit(bytes: number | undefined): void;
}

/** Where a hypervisor may connect for a channel before the other host takes what it says. */
export interface HeldSocket {
  readonly path: string;
  /** What is said is carried from here on. False when nobody has connected. Safe to repeat. */
  release(): boolean;
  /** Who has connected is sent away, and whoever comes next is not held. */
  close(): void;
}

export interface PostCopy {
  /** Destination, of a committed plan: the guest runs as soon as its state is here. Returns before that. */
  run(plan: MachinePlan, signal: AbortSignal): Promise<void>;
  /**
   * Destination: the rest of the guest's memory will not come, so its machine ends as in a crash. False when nothing was
   * committed: then it is left as it is.
   */
  giveUp(id: string): Promise<boolean>;
}

export interface GuestModel {
  /** Versioned machine types that this host can run, newest first, such as `pc-q35-7.2`. */
  readonly machineTypes: readonly string[];
  readonly cpuModel: string;
}

export interface SendProgress {
  readonly phase: "disk-copy" | "pre-copy" | "converged" | "switchover" | "post-copy" | "handed-over";
  /** Memory and disk that have to move, and what is left of them, as the hypervisor counts them. */
  readonly bytesTotal: number;
  readonly bytesRemaining: number;
  readonly zeroBytes: number;
  /** Of the disks: what the other host had kept. */
  readonly diskKeptBytes?: number;
  /** Bytes per second. */
  readonly dirtyRate: number;
  readonly throughput: number;
  readonly rounds: number;
  readonly predictedDowntimeMs: number;
  /** Unix milliseconds when the guest was stopped for good; with `switchover` and `handed-over`. */
  readonly stoppedAtMs?: number;
  /** From the guest's stop until all had arrived, or, with `post-copy`, until only the commit was missing. */
  readonly stoppedMs?: number;
  readonly convergence?: Convergence;
  /** Post-copy only: the connection was lost and is being made again. */
  readonly interrupted?: boolean;
}

/** What was done about a guest that writes faster than the link carries. */
export interface Convergence {
  /** Rounds that got nowhere, and connections made again in post-copy: since it was told last. */
  readonly stalls: number;
  readonly recoveries: number;
  readonly throttlePercent: number;
  readonly forced: boolean;
  readonly postCopyBytes: number;
  readonly pageRequests: number;
}

export interface ConsoleAccess {
  /** Opens the serial port of a running machine for writing and live reading. One at a time per machine. */
  connect(id: string, signal: AbortSignal): Promise<Duplex>;
  /** The file that holds everything the serial port ever printed, appended to even while no agent runs. */
  logPath(directory: string): string;
}
