import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { LocalImage } from "#agent/drivers/driver.ts";
import { FakeDriver } from "#agent/drivers/fake/driver.ts";
import { ChangeFeed } from "#agent/machines/change-feed.ts";
import { Ledger } from "#agent/machines/ledger.ts";
import { defaultTiming, type MachineDeps } from "#agent/machines/machine-deps.ts";
import { MachineManager } from "#agent/machines/manager.ts";
import { recoverMachines } from "#agent/machines/recover.ts";
import { Fault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";

const never = new AbortController().signal;

/** One host: what an agent has between its transport and its driver. */
export class WorldHost {
  readonly id: string;
  readonly driver: FakeDriver;
  readonly manager: MachineManager;
  readonly changes = new ChangeFeed();
  readonly #directory: string;
  readonly #stop = new AbortController();
  connected = true;
  /** Thrown after the effect, instead of the reply. */
  loseReplies = 0;
  readonly commands: string[] = [];

  static async start(id: string): Promise<WorldHost> {
    const directory = await mkdtemp(join(tmpdir(), "skerry-world-"));
    const ledger = await Ledger.open({ directory: join(directory, "ledger"), log: silentLogger });
    const world = new WorldHost(id, directory, ledger);
    return world;
  }

  private constructor(id: string, directory: string, ledger: Ledger) {
    this.id = id;
    this.#directory = directory;
    this.driver = new FakeDriver({ log: silentLogger });
    const localImage: LocalImage = { type: "disk", path: "/nowhere", format: "raw" };
    const deps: MachineDeps = {
      driver: this.driver,
      images: { ensure: async () => localImage },
      ledger,
      changes: this.changes,
      log: silentLogger,
      timing: { ...defaultTiming, backoff: { baseMs: 10, capMs: 20 }, attempts: 4 },
      now: Date.now,
      directoryOf: (machine) => join(directory, "machines", machine),
    };
    this.manager = new MachineManager(deps);
    void this.manager.run(this.#stop.signal);
    void recoverMachines(this.manager, deps, never);
  }

  reply<T>(value: T): T {
    if (this.loseReplies <= 0) return value;
    this.loseReplies--;
    throw new Fault("unavailable", "the connection was cut off", { reason: "HOST_NOT_CONNECTED" });
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.manager.close({ pullPlugs: true }, never);
    await rm(this.#directory, { recursive: true, force: true });
  }
}
