/**
 * The product with a fake machine inside: everything around it (ledger, manager, reports, console)
 * is what runs on a real host. Its facts always say `fake`.
 */
import { EventEmitter, on } from "node:events";
import { watch } from "node:fs";
import { readFile, rm, stat } from "node:fs/promises";
import { basename, dirname } from "node:path";
import type { Duplex } from "node:stream";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import type {
  ConsoleAccess,
  DiskCopies,
  DriverFacts,
  DriverMachine,
  DriverMetrics,
  LiveMigration,
  MachineDriver,
  MachineEvent,
  MachinePlan,
  RemoveOptions,
} from "../driver.ts";
import { FakeForeignMachines } from "./foreign.ts";
import { Gate } from "./gate.ts";
import { type FakeKnobs, noKnobs, parseKnobs } from "./knobs.ts";
import { consoleLogPath, FakeMachine } from "./machine.ts";
import { FakeLiveMigration } from "./migration.ts";

export interface FakeDriverOptions {
  readonly log: Logger;
  readonly knobs?: Partial<FakeKnobs>;
  /** A JSON file of knobs, read at start and whenever it changes. */
  readonly knobsFile?: string | undefined;
  readonly now?: () => number;
}

/** Makes a fake driver and reads its knobs file, if it has one. */
export async function createFakeDriver(options: FakeDriverOptions): Promise<FakeDriver> {
  const driver = new FakeDriver(options);
  if (options.knobsFile !== undefined) await driver.follow(options.knobsFile);
  return driver;
}

export class FakeDriver implements MachineDriver {
  readonly name = "fake";
  readonly console: ConsoleAccess;
  readonly liveMigration: LiveMigration;
  readonly foreign = new FakeForeignMachines();
  readonly diskCopies: DiskCopies = { copyDisk: ({ id }, path) => this.#copyDisk(id, path) };
  readonly #moves: FakeLiveMigration;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #machines = new Map<string, FakeMachine>();
  readonly #events = new EventEmitter();
  readonly #gate = new Gate();
  readonly #closing = new AbortController();
  #knobs: FakeKnobs = noKnobs;
  /** Of the file of knobs. */
  #knobsRead = "";

  constructor({ log, knobs = {}, now = Date.now }: FakeDriverOptions) {
    this.#log = log;
    this.#now = now;
    this.liveMigration = this.#moves = new FakeLiveMigration({
      find: (id) => this.#machines.get(id),
      keep: (machine) => this.#keep(machine),
      gate: this.#gate,
      knobs: () => this.#knobs,
      tell: (event) => this.#tell(event),
      ...{ log, now },
    });
    this.#turn({ ...noKnobs, ...knobs });
    this.console = { connect: (id) => this.#openConsole(id), logPath: consoleLogPath };
  }

  async probe(): Promise<DriverFacts> {
    return {
      version: "1",
      acceleration: "none",
      accelerationReason: "machines of the fake driver have no guest",
      capabilities: ["console", "hotplug.cpu", "hotplug.memory", "migration"],
    };
  }

  async recover(plans: readonly MachinePlan[]): Promise<readonly DriverMachine[]> {
    for (const plan of plans) {
      const found = await FakeMachine.find(plan);
      if (!found) continue;
      this.foreign.adopt(plan);
      await this.#moves.recover(found);
      this.#keep(found);
    }
    return [...this.#machines.values()].map((machine) => machine.view());
  }

  async ensure(plan: MachinePlan, signal: AbortSignal): Promise<DriverMachine> {
    await this.#gate.enter("ensure", signal);
    this.foreign.adopt(plan);
    const machine = this.#machines.get(plan.id) ?? (await FakeMachine.make(plan));
    this.#keep(machine);
    machine.apply(plan, this.#now());
    this.#moves.end(plan.id);
    this.#keep(machine); // a move may have slowed it down
    this.#gate.leave("ensure");
    return machine.view();
  }

  async remove(
    id: string,
    directory: string,
    signal: AbortSignal,
    { keepDisks, adoptionEnd = "release" }: RemoveOptions = { keepDisks: false },
  ): Promise<void> {
    await this.#gate.enter("remove", signal);
    const machine = this.#machines.get(id);
    this.foreign.end(id, adoptionEnd, machine?.isOn ?? false);
    this.#machines.delete(id);
    this.#moves.end(id);
    if (keepDisks) await (machine ?? (await FakeMachine.find({ id, directory })))?.leaveDisk();
    else await machine?.erase();
    // What an earlier agent began to make is not in memory.
    if (!machine && !keepDisks) await rm(directory, { recursive: true, force: true });
    this.#gate.leave("remove");
  }

  async inspect(id: string): Promise<DriverMachine | undefined> {
    return this.#machines.get(id)?.view();
  }

  async metrics(id: string): Promise<DriverMetrics | undefined> {
    return this.#machines.get(id)?.metrics(this.#now());
  }

  events(signal: AbortSignal): AsyncIterable<MachineEvent> {
    // Subscribed here and not at the first `next`, so that nothing between the two is lost.
    const source = on(this.#events, "event", { signal });
    return unwrap(source as AsyncIterable<[MachineEvent]>, signal);
  }

  /** Turns knobs; those not named stay as they are. */
  set(change: Partial<FakeKnobs>): void {
    this.#turn({ ...this.#knobs, crash: [], powerOff: [], lose: [], ...change });
  }

  /** With manual stepping: how many ensures wait. */
  get waiting(): number {
    return this.#gate.waiting;
  }

  /** With manual stepping: lets one waiting ensure through; false when none waits. */
  step(): boolean {
    return this.#gate.step();
  }

  /** The machine's end, as if its process died (`clean` false) or its guest powered off (`clean` true). */
  async end(id: string, clean: boolean): Promise<void> {
    const machine = this.#machines.get(id);
    if (!machine?.isOn) return;
    machine.end();
    this.#moves.end(id);
    const detail = clean ? "the guest powered off" : "the process was killed";
    this.#tell({ id, type: "ended", clean, detail });
  }

  /** Reads the knobs file now and whenever it changes. */
  async follow(path: string): Promise<void> {
    this.#turn(parseKnobs(await readFile(path, "utf8")));
    const watcher = watch(dirname(path), { persistent: false, signal: this.#closing.signal });
    watcher.on("change", (_kind, name) => {
      if (name === basename(path)) void this.#reread(path);
    });
    watcher.on("error", (error) => this.#log.error("fake.knobs", { fault: error }));
  }

  /** Lets go of all machines; what runs inside them stands still until another driver finds them. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    for (const [id, machine] of this.#machines) {
      this.#moves.end(id);
      machine[Symbol.dispose]();
    }
  }

  async #reread(path: string): Promise<void> {
    try {
      const text = await readFile(path, "utf8");
      const { mtimeNs } = await stat(path, { bigint: true });
      // A writer truncates before it writes: an empty file is a file being written.
      if (text.trim() === "") return;
      // The two are two changes, which may both be seen when all is there; what dies now dies once. Of what is read first
      // the time is that of the last change at least.
      const version = `${String(mtimeNs)} ${text}`;
      if (version === this.#knobsRead) return;
      this.#knobsRead = version;
      this.#turn(parseKnobs(text));
    } catch (error) {
      this.#log.error("fake.knobs", { fault: error });
    }
  }

  #turn(knobs: FakeKnobs): void {
    this.#knobs = knobs;
    this.#gate.set(knobs);
    for (const machine of this.#machines.values()) this.#keep(machine);
    const named = (ids: readonly string[]) => (ids.includes("*") ? [...this.#machines.keys()] : ids);
    const effects = [
      ...named(knobs.crash).map((id) => this.end(id, false)),
      ...named(knobs.powerOff).map((id) => this.end(id, true)),
      ...named(knobs.lose).map((id) => this.#lose(id)),
    ];
    Promise.all(effects).catch((error: unknown) => this.#log.error("fake.knobs", { fault: error }));
  }

  async #lose(id: string): Promise<void> {
    const machine = this.#machines.get(id);
    this.#machines.delete(id);
    this.#moves.end(id);
    await machine?.erase();
    this.#tell({ id, type: "changed" });
  }

  #keep(machine: FakeMachine): void {
    this.#machines.set(machine.id, machine);
    // What this driver has let go of is another's to run.
    if (!this.#closing.signal.aborted) machine.turn(this.#knobs);
  }

  #tell(event: MachineEvent): void {
    this.#events.emit("event", event);
  }

  async #copyDisk(id: string, path: string): Promise<void> {
    const machine = this.#machines.get(id);
    if (!machine) throw new Fault("notFound", "there is no such machine", { reason: "MACHINE_LOST" });
    await machine.copyDisk(path);
  }

  async #openConsole(id: string): Promise<Duplex> {
    const machine = this.#machines.get(id);
    if (machine?.isRunning) return machine.openConsole();
    throw new Fault("conflict", "the machine does not run", { reason: "MACHINE_NOT_RUNNING" });
  }
}

async function* unwrap(
  source: AsyncIterable<[MachineEvent]>,
  signal: AbortSignal,
): AsyncGenerator<MachineEvent> {
  try {
    for await (const [event] of source) yield event;
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
