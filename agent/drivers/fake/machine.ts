/**
 * A machine without a guest: sizes, a power switch and a console that echoes. Its state is a small
 * file in its folder, so that it outlives the agent as a hypervisor's process would.
 */
import { createHash } from "node:crypto";
import { appendFileSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Duplex } from "node:stream";
import { Fault } from "#kernel/fault.ts";
import { Power } from "#gen/skerry/agent/v1/machine_pb.js";
import type { DriverMachine, DriverMetrics, MachinePlan } from "../driver.ts";
import { FakeGuest, type GuestSize, loseMemory } from "./guest.ts";
import { keepStaleDisk, takeStaleDisk } from "./stale-disk.ts";

const MiB = 1024n ** 2n;

interface Size {
  readonly vcpus: number;
  readonly memoryMiB: number;
}

/** Why a machine stands still in the middle of a move. */
export interface Hold {
  readonly migrationId: string;
  /**
   * `incoming`: it has not arrived whole; `arrived`: it has. `switchover`: its last pages are under way;
   * `handed-over`: the other host has them all. In post-copy, `offered`: stopped, with memory that is to follow;
   * `following`: it runs, and memory is still to come; `followed`: nothing is.
   */
  readonly stage:
    "incoming" | "arrived" | "switchover" | "offered" | "handed-over" | "following" | "followed";
  /** Its memory has begun to arrive: a connection that is lost now is the machine lost. */
  readonly memoryBegun: boolean;
  /** The migration since which the disk was kept that it has taken; absent: it is new. */
  readonly baseline?: string;
  /** Of a post-copy: the guest is the destination's from here on. */
  readonly committed?: boolean;
  /** At the destination, once its state is here: pages that are not. */
  readonly missing?: readonly number[];
}

/** It stands still. */
function isStill(hold: Hold | undefined): boolean {
  return hold !== undefined && hold.stage !== "following" && hold.stage !== "followed";
}

/** How a guest behaves, where there is to be one. */
export interface GuestHabits extends GuestSize {
  /** 0: nothing runs inside. */
  readonly tickMs: number;
  /** Pages of memory that each tick changes. */
  readonly dirtyPages: number;
}

interface State {
  readonly wanted: Size;
  /** What it runs with; undefined while it is off. */
  readonly running: (Size & { readonly startedAtMs: number }) | undefined;
  readonly diskBytes: string;
  readonly forwards: DriverMachine["forwards"];
  /** While this is set nothing runs, whatever `running` says, unless it is a post-copy's. */
  readonly hold?: Hold;
}

const idle: GuestHabits = { tickMs: 0, dirtyPages: 0, memoryPages: 1, diskPages: 1 };

export function consoleLogPath(directory: string): string {
  return join(directory, "console.log");
}

export class FakeMachine {
  readonly id: string;
  readonly directory: string;
  #state: State;
  #habits: GuestHabits = idle;
  #guest: FakeGuest | undefined;
  #clock: NodeJS.Timeout | undefined;

  private constructor(id: string, directory: string, state: State) {
    this.id = id;
    this.directory = directory;
    this.#state = state;
  }

  /** Makes the folder of a machine that was not there; it is off. */
  static async make(plan: MachinePlan): Promise<FakeMachine> {
    const isNew = mkdirSync(plan.directory, { recursive: true }) !== undefined;
    // What arrives may take what is kept; whatever is made anew does not.
    if (!isNew && !plan.spec.move) await takeStaleDisk(plan.directory, "");
    const wanted = sizeOf(plan);
    const state: State = { wanted, running: undefined, diskBytes: "0", forwards: [] };
    return new FakeMachine(plan.id, plan.directory, state);
  }

  /** Finds what an earlier agent left in the folder; undefined when there is nothing. */
  static async find({
    id,
    directory,
  }: Pick<MachinePlan, "id" | "directory">): Promise<FakeMachine | undefined> {
    try {
      const text = await readFile(join(directory, "fake.json"), "utf8");
      return new FakeMachine(id, directory, JSON.parse(text) as State);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
  }

  /** Its power is on, though it may stand still. */
  get isOn(): boolean {
    return this.#state.running !== undefined;
  }

  get isRunning(): boolean {
    return this.isOn && !isStill(this.#state.hold);
  }

  /** There is more of it than a folder: it has been on, or was told to be. */
  get isMade(): boolean {
    return this.#state.diskBytes !== "0";
  }

  get hold(): Hold | undefined {
    return this.#state.hold;
  }

  /** Stops what runs inside, or lets it go on. */
  setHold(hold: Hold | undefined): void {
    const { hold: _, ...state } = this.#state;
    this.#save(hold ? { ...state, hold } : state);
  }

  /** Makes it stand ready for what another host sends. @param baseline the disk that it may take, if that is kept */
  async await(plan: MachinePlan, { baseline, ...wait }: Hold, on: boolean, nowMs: number): Promise<void> {
    this[Symbol.dispose]();
    const taken = baseline !== undefined && (await takeStaleDisk(this.directory, baseline));
    const hold = taken ? { ...wait, baseline } : wait;
    const wanted = sizeOf(plan);
    const running = on ? { ...wanted, startedAtMs: nowMs } : undefined;
    const diskBytes = String(plan.spec.diskBytes);
    this.#save({ wanted, running, diskBytes, forwards: forwardsOf(plan), hold });
  }

  /** Its memory and disk; made when they are first wanted. */
  get guest(): FakeGuest {
    return (this.#guest ??= new FakeGuest(this.directory, consoleLogPath(this.directory), this.#habits));
  }

  /** Says how the guest is to behave; pages that are there keep their number. */
  turn(habits: GuestHabits): void {
    this.#habits = habits;
    this.#keepTicking();
  }

  /** Slows the guest down, so that it can be moved; until it is told how to behave again. */
  throttle(): void {
    this.turn({ ...this.#habits, dirtyPages: 0 });
  }

  /** Lets go of it; its files stay. */
  [Symbol.dispose](): void {
    this.turn({ ...this.#habits, tickMs: 0 });
    this.#guest?.[Symbol.dispose]();
    this.#guest = undefined;
  }

  /** Converges to the plan: a larger size is plugged in live, a smaller one waits for the next start. */
  apply(plan: MachinePlan, nowMs: number): void {
    const { diskBytes, power } = plan.spec;
    const { hold, running: runs } = this.#state;
    if (hold?.committed && (hold.stage === "offered" || hold.stage === "handed-over")) {
      throw new Fault("conflict", "the guest has gone on at the other host", { reason: "MOVE_COMMITTED" });
    }
    if (hold?.stage === "incoming" || (hold?.stage === "following" && runs)) {
      throw new Fault("conflict", "the machine has not arrived whole", { reason: "MOVE_INCOMPLETE" });
    }
    if (diskBytes < BigInt(this.#state.diskBytes)) {
      throw new Fault("invalid", "a disk cannot shrink", { reason: "DISK_CANNOT_SHRINK" });
    }
    const wanted = sizeOf(plan);
    const before = this.#state.running;
    const grown = before && {
      startedAtMs: before.startedAtMs,
      vcpus: Math.max(before.vcpus, wanted.vcpus),
      memoryMiB: Math.max(before.memoryMiB, wanted.memoryMiB),
    };
    const running = power === Power.ON ? (grown ?? { ...wanted, startedAtMs: nowMs }) : undefined;
    const next: State = {
      wanted,
      running,
      diskBytes: String(diskBytes),
      forwards: forwardsOf(plan),
    };
    const arrived = this.#state.hold?.stage === "arrived" ? this.#state.hold : undefined;
    if (arrived) this.guest.disk.rememberSince(arrived.migrationId);
    if (running && !before) this.print(`fake machine ${this.id} started\r\n`);
    this.#save(next);
  }

  /** Writes all of its disk to another file. */
  async copyDisk(path: string): Promise<void> {
    const { disk } = this.guest;
    await writeFile(path, Buffer.concat(Array.from({ length: disk.pages }, (_, page) => disk.read(page))));
  }

  /** Ends it without being asked. */
  end(): void {
    this.#save({ ...this.#state, running: undefined });
  }

  async erase(): Promise<void> {
    this[Symbol.dispose]();
    await rm(this.directory, { recursive: true, force: true });
  }

  /** It is no machine any more; a disk that a move has taken away stays, as nobody's. */
  async leaveDisk(): Promise<void> {
    const { hold } = this.#state;
    if (hold?.stage !== "handed-over") return this.erase();
    this[Symbol.dispose]();
    await rm(join(this.directory, "fake.json"), { force: true });
    loseMemory(this.directory);
    await keepStaleDisk(this.directory, hold.migrationId);
  }

  /** As a hypervisor that is killed, it forgets since when it knew with the process. */
  get #baseline(): string | undefined {
    const { hold } = this.#state;
    const arriving = hold?.stage === "incoming" || hold?.stage === "arrived";
    return arriving ? hold.baseline : this.#guest?.disk.since;
  }

  view(): DriverMachine {
    const { wanted, running, diskBytes, forwards, hold } = this.#state;
    const size = running ?? wanted;
    const pendingRestart = [
      ...(size.vcpus === wanted.vcpus ? [] : ["cpus"]),
      ...(size.memoryMiB === wanted.memoryMiB ? [] : ["memory_bytes"]),
    ];
    return {
      id: this.id,
      state: running ? (isStill(hold) ? "paused" : "running") : "stopped",
      vcpus: size.vcpus,
      memoryBytes: BigInt(size.memoryMiB) * MiB,
      diskBytes: BigInt(diskBytes),
      pendingRestart,
      guestAddress: running ? addressOf(this.id) : "",
      forwards,
      startedAt: running && new Date(running.startedAtMs),
      acceleration: "none",
      ...(this.#baseline !== undefined && { baseline: this.#baseline }),
    };
  }

  /** Counters that follow the clock: each vCPU a twentieth busy, half of the memory used. */
  metrics(nowMs: number): DriverMetrics | undefined {
    const { running, diskBytes } = this.#state;
    if (!running) return undefined;
    const seconds = Math.max(0, nowMs - running.startedAtMs) / 1000;
    const counter = BigInt(Math.floor(seconds));
    const memory = BigInt(running.memoryMiB) * MiB;
    return {
      cpuSeconds: seconds * running.vcpus * 0.05,
      memoryUsedBytes: memory / 2n,
      memoryTotalBytes: memory,
      diskReadBytes: counter * 4096n,
      diskWriteBytes: counter * 8192n,
      diskReadOperations: counter,
      diskWriteOperations: counter * 2n,
      networkInBytes: counter * 1000n,
      networkOutBytes: counter * 2000n,
      diskAllocatedBytes: BigInt(diskBytes) / 16n,
    };
  }

  /** The serial port: what is typed comes back, and a return gets a prompt. */
  openConsole(): Duplex {
    const port: Duplex = new Duplex({
      read: () => undefined,
      write: (chunk: Buffer, _encoding, done) => {
        const answer = chunk.toString("latin1").replaceAll("\r", `\r\n${this.id}:~# `);
        try {
          this.print(answer);
          port.push(Buffer.from(answer, "latin1"));
          done();
        } catch (error) {
          done(error as Error);
        }
      },
    });
    return port;
  }

  print(text: string): void {
    appendFileSync(consoleLogPath(this.directory), text, "latin1");
  }

  #loseMemory(): void {
    this.#guest?.[Symbol.dispose]();
    this.#guest = undefined;
    loseMemory(this.directory);
  }

  #keepTicking(): void {
    clearInterval(this.#clock);
    const { tickMs, dirtyPages } = this.#habits;
    if (!this.isRunning || tickMs === 0) return;
    this.guest.boot();
    this.#clock = setInterval(() => this.guest.tick(dirtyPages), tickMs).unref();
  }

  #save(next: State): void {
    const turnedOff = this.isOn && !next.running;
    this.#state = next;
    this.#keepTicking();
    if (turnedOff) this.#loseMemory();
    const path = join(this.directory, "fake.json");
    writeFileSync(`${path}.new`, JSON.stringify(next));
    renameSync(`${path}.new`, path);
  }
}

function forwardsOf({ spec }: MachinePlan): State["forwards"] {
  return spec.forwards.map(({ protocol, guestPort, hostPort, hostAddress }) => ({
    protocol,
    guestPort,
    hostPort,
    hostAddress: hostAddress || "127.0.0.1",
  }));
}

function sizeOf({ spec }: MachinePlan): Size {
  return { vcpus: spec.vcpus, memoryMiB: Number(spec.memoryBytes / MiB) };
}

function addressOf(id: string): string {
  const [a = 0, b = 0] = createHash("sha256").update(id).digest();
  return `10.${String(a)}.${String(b)}.15`;
}
