/**
 * A host of one move in this process, with a fake driver and no control plane: what it sends goes through `PipedMoves`,
 * and its agent can be killed and started again on its folder.
 */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FakeDriver } from "#agent/drivers/fake/driver.ts";
import type { FakeKnobs } from "#agent/drivers/fake/knobs.ts";
import { ChangeFeed } from "#agent/machines/change-feed.ts";
import { Ledger } from "#agent/machines/ledger.ts";
import { defaultTiming, type MachineDeps, type MachineTiming } from "#agent/machines/machine-deps.ts";
import { MachineManager } from "#agent/machines/manager.ts";
import { recoverMachines } from "#agent/machines/recover.ts";
import type { Machine } from "#gen/skerry/agent/v1/machine_pb.js";
import type { MovePhase } from "#gen/skerry/agent/v1/migration_pb.js";
import { silentLogger } from "#kernel/log.ts";
import { readTicks } from "./guest-ticks.ts";
import type { PipedMoves } from "./piped-moves.ts";
import { until } from "./until.ts";

const never = new AbortController().signal;

/** The machine that moves. */
export const machineId = "vm-1";

/** An agent's machines on a folder; killed and started again it finds what is there. */
export class PipedHost implements AsyncDisposable {
  readonly directory: string;
  driver!: FakeDriver;
  manager!: MachineManager;
  #deps!: MachineDeps;
  #stop = new AbortController();
  readonly #moves: PipedMoves;
  readonly #knobs: Partial<FakeKnobs>;
  /** The time for its agent; milliseconds since 1970. */
  nowMs = () => Date.now();
  /** What differs from the usual; for the agent that is started next. */
  timing: Partial<MachineTiming> = {};

  private constructor(directory: string, moves: PipedMoves, knobs: Partial<FakeKnobs>) {
    this.directory = directory;
    this.#moves = moves;
    this.#knobs = knobs;
  }

  static async start(moves: PipedMoves, knobs: Partial<FakeKnobs> = {}): Promise<PipedHost> {
    const host = new PipedHost(await mkdtemp(join(tmpdir(), "skerry-move-")), moves, knobs);
    await host.start();
    return host;
  }

  async start(): Promise<void> {
    const ledger = await Ledger.open({ directory: join(this.directory, "ledger"), log: silentLogger });
    this.driver = new FakeDriver({ log: silentLogger, knobs: this.#knobs });
    this.#deps = {
      driver: this.driver,
      images: { ensure: async () => ({ type: "disk", path: "/nowhere", format: "raw" }) },
      moves: this.#moves,
      timing: {
        ...defaultTiming,
        backoff: { baseMs: 5, capMs: 10 },
        attempts: 4,
        progressMs: 10,
        ...this.timing,
      },
      now: () => this.nowMs(),
      directoryOf: (machine) => join(this.directory, "machines", machine),
      changes: new ChangeFeed(),
      log: silentLogger,
      ledger,
    };
    this.manager = new MachineManager(this.#deps);
    this.#stop = new AbortController();
    void this.manager.run(this.#stop.signal);
    await recoverMachines(this.manager, this.#deps, never);
  }

  /** The agent dies: whatever it held is cut, and nothing is tidied up. */
  async kill(): Promise<void> {
    this.#stop.abort();
    await this.driver[Symbol.asyncDispose]();
    await this.manager.close({ pullPlugs: false }, never);
  }

  get view(): Machine | undefined {
    return this.manager.list().find((machine) => machine.id === machineId);
  }

  get phase(): MovePhase | undefined {
    return this.view?.move?.phase;
  }

  /** Waits for a phase of the move here. */
  async at(phase: MovePhase): Promise<void> {
    await until(() => this.phase === phase);
  }

  /** Whether it runs, as somebody sees who looks at the host from outside. */
  async runs(): Promise<boolean> {
    const text = await readFile(join(this.directory, "machines", machineId, "fake.json"), "utf8").catch(
      () => "{}",
    );
    const { running, hold } = JSON.parse(text) as { running?: object; hold?: { stage: string } };
    return running !== undefined && (hold === undefined || hold.stage.startsWith("follow"));
  }

  /** What the machine's guest has counted on this host, in the order it did: `token counter`. */
  ticks(): Promise<readonly string[]> {
    return readTicks(join(this.directory, "machines", machineId));
  }

  /** Waits until its guest has counted on. */
  async counts(): Promise<void> {
    const before = (await this.ticks()).length;
    await until(async () => (await this.ticks()).length > before + 2);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}
