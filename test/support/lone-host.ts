/**
 * One agent's worth of machines on a folder, with a fake driver and nobody in between; a second one on the same folder
 * is the agent after a kill.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import type { LocalImage } from "#agent/drivers/driver.ts";
import { FakeDriver } from "#agent/drivers/fake/driver.ts";
import { type Change, ChangeFeed } from "#agent/machines/change-feed.ts";
import { Ledger } from "#agent/machines/ledger.ts";
import { defaultTiming, type MachineDeps } from "#agent/machines/machine-deps.ts";
import { MachineManager } from "#agent/machines/manager.ts";
import { recoverMachines } from "#agent/machines/recover.ts";
import {
  type Machine,
  type MachineSpec,
  MachineSpecSchema,
  Power,
  RestartPolicy,
} from "#gen/skerry/agent/v1/machine_pb.js";
import { silentLogger } from "#kernel/log.ts";

const MiB = 2n ** 20n;
const never = new AbortController().signal;

/** What every image is here. */
export const localImage: LocalImage = { type: "disk", path: "/nowhere", format: "raw" };

export class LoneHost {
  readonly directory: string;
  readonly driver: FakeDriver;
  readonly changes = new ChangeFeed();
  /** Whatever it has told, in the order it did. */
  readonly seen: Change[] = [];
  readonly ledger: Ledger;
  readonly manager: MachineManager;
  readonly deps: MachineDeps;
  readonly #stop = new AbortController();
  #epoch = 1n;

  /** @param change what differs from the usual; with a folder, the host is that of whoever was killed there */
  static async start(change: Partial<MachineDeps> & { directory?: string } = {}): Promise<LoneHost> {
    const directory = change.directory ?? (await mkdtemp(join(tmpdir(), "skerry-machines-")));
    const ledger = await Ledger.open({ directory: join(directory, "ledger"), log: silentLogger });
    const host = new LoneHost(directory, ledger, change);
    void host.manager.run(host.#stop.signal);
    await recoverMachines(host.manager, host.deps, never);
    return host;
  }

  private constructor(directory: string, ledger: Ledger, change: Partial<MachineDeps>) {
    this.directory = directory;
    this.ledger = ledger;
    this.driver = new FakeDriver({ log: silentLogger });
    this.deps = {
      driver: this.driver,
      images: { ensure: async () => localImage },
      ledger,
      changes: this.changes,
      log: silentLogger,
      timing: { ...defaultTiming, backoff: { baseMs: 10, capMs: 20 }, attempts: 4 },
      now: Date.now,
      directoryOf: (id) => join(directory, "machines", id),
      ...change,
    };
    this.manager = new MachineManager(this.deps);
    this.changes.subscribe((change) => this.seen.push(change));
  }

  ensure(id: string, generation: number, change: Partial<MachineSpec> = {}, waitMs = 5000): Promise<Machine> {
    const fence = { epoch: this.#epoch, generation: BigInt(generation) };
    return this.manager.ensure({ id, fence, spec: specOf(change), waitMs }, never);
  }

  remove(id: string, generation: number, waitMs = 5000): Promise<boolean> {
    const fence = { epoch: this.#epoch, generation: BigInt(generation) };
    return this.manager.remove({ id, fence, waitMs }, never);
  }

  /** Of the commands to come. */
  set epoch(epoch: bigint) {
    this.#epoch = epoch;
  }

  /** The agent is killed: nothing is tidied up. Work under way is held for ever by the test's driver. */
  async kill(): Promise<void> {
    this.#stop.abort();
    await this.manager.close({ pullPlugs: false }, never);
  }

  /** Killed, and started again on the same folder. */
  async restart(change: Partial<MachineDeps> = {}): Promise<LoneHost> {
    await this.kill();
    return LoneHost.start({ directory: this.directory, ...change });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}

function specOf(change: Partial<MachineSpec> = {}): MachineSpec {
  const spec = create(MachineSpecSchema, {
    name: "one",
    image: { id: "img-1", name: "micro" },
    vcpus: 1,
    memoryBytes: 128n * MiB,
    diskBytes: 64n * MiB,
    power: Power.ON,
    restartPolicy: RestartPolicy.ON_FAILURE,
  });
  return Object.assign(spec, change);
}
