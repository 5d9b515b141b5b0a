/**
 * The cases that every engine passes under the driver: what the manager relies on. The assertions come in as a
 * parameter, so that production code knows no test runner.
 */
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { toFault } from "#kernel/fault.ts";
import { deadline, sleep } from "#kernel/retry.ts";
import { type MachineSpec, MachineSpecSchema, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import { ContainerSchema, HealthCheckSchema } from "#gen/skerry/agent/v1/workload_pb.js";
import type { Suite } from "../drivers/conformance.ts";
import type { DriverMachine, LocalImage, MachineEvent, MachinePlan } from "../drivers/driver.ts";
import type { ContainerDriver } from "./driver.ts";
import { logPathOf } from "./driver.ts";
import { readLog } from "./log.ts";

/** One host of the engine under test, with nothing on it yet. */
export interface ContainerBench extends AsyncDisposable {
  readonly driver: ContainerDriver;
  /** One whose containers know the commands below. */
  readonly image: LocalImage;
  /** An existing folder below which containers get theirs. */
  readonly directory: string;
  /** Commands of a container that runs on, and of one that ends with 3. */
  readonly lasting: readonly string[];
  readonly ending: readonly string[];
  /** Kills the container from outside. */
  crash(id: string): Promise<void>;
  /** A new driver over what the last one left behind, as after `kill -9` of the agent. */
  successor(): Promise<ContainerDriver>;
  /** The same after a power cut: nothing runs any more. */
  afterPowerCut(): Promise<ContainerDriver>;
}

export interface ContainerConformanceOptions {
  make(): Promise<ContainerBench>;
  /** Longest that all cases may take together. */
  readonly limitMs: number;
}

/** Runs all cases on one bench, for starting an engine costs more than a container. */
export async function containerConformance(t: Suite, options: ContainerConformanceOptions): Promise<void> {
  await using bench = await options.make();
  using signal = deadline(options.limitMs, "the conformance of containers");
  const w = new Workbench(bench, signal);
  for (const [name, body] of Object.entries(cases)) await t.test(name, (child) => body(child, w));
}

class Workbench {
  readonly bench: ContainerBench;
  readonly signal: AbortSignal;
  driver: ContainerDriver;

  constructor(bench: ContainerBench, signal: AbortSignal) {
    this.bench = bench;
    this.signal = signal;
    this.driver = bench.driver;
  }

  plan(id: string, command: readonly string[], change: Partial<MachineSpec> = {}): MachinePlan {
    const spec = create(MachineSpecSchema, {
      name: id,
      hostname: id,
      vcpus: 1,
      memoryBytes: 64n * 1024n ** 2n,
      diskBytes: 1n,
      power: Power.ON,
      stopTimeoutSeconds: 0,
      container: create(ContainerSchema, { command: [...command] }),
    });
    const { image, directory } = this.bench;
    return { id, spec: Object.assign(spec, change), image, directory: join(directory, id) };
  }

  ensure(plan: MachinePlan): Promise<DriverMachine> {
    return this.driver.ensure(plan, this.signal);
  }

  remove({ id, directory }: MachinePlan): Promise<void> {
    return this.driver.remove(id, directory, this.signal);
  }

  /** The next end of this one; listened for from now on. */
  nextEnd(id: string): Promise<MachineEvent & { type: "ended" }> {
    const events = this.driver.events(this.signal)[Symbol.asyncIterator]();
    const find = async () => {
      for (;;) {
        const next = await events.next();
        if (next.done) throw new Error("the events ended first");
        if (next.value.type !== "ended" || next.value.id !== id) continue;
        await events.return?.(undefined);
        return next.value;
      }
    };
    return find();
  }
}

type Case = (t: Suite, w: Workbench) => Promise<void>;

const cases: Record<string, Case> = {
  "probe runs a container": async (t, w) => {
    const facts = await w.driver.probe(w.signal);
    t.ok(facts.version !== "", "it has a version");
    t.same(facts.capabilities, ["containers"], "and the ability");
  },

  "ensure makes and starts; again it changes nothing; another setup is another container": async (t, w) => {
    const plan = w.plan("wl-twice", w.bench.lasting);
    const first = await w.ensure(plan);
    t.equal(first.state, "running", "it runs");
    t.equal(first.driver, w.driver.name, "and says what runs it");
    t.same((await w.ensure(plan)).startedAt, first.startedAt, "the second ensure did not restart it");
    t.same(await w.driver.inspect(plan.id), first, "inspect agrees with ensure");
    t.ok(((await w.driver.metrics(plan.id))?.memoryUsedBytes ?? 0n) > 0n, "it has counters");
    const more = w.plan("wl-twice", w.bench.lasting, { memoryBytes: 96n * 1024n ** 2n });
    const other = await w.ensure(more);
    t.equal(other.state, "running", "it runs with more memory");
    t.not(other.startedAt?.getTime(), first.startedAt?.getTime(), "and was started for it");
    await w.remove(plan);
    t.equal(await w.driver.inspect(plan.id), undefined, "it is gone");
    await w.remove(plan);
    t.ok(true, "and may be removed twice");
  },

  "off, and on again": async (t, w) => {
    const plan = w.plan("wl-power", w.bench.lasting);
    await w.ensure(plan);
    const off = await w.ensure(w.plan("wl-power", w.bench.lasting, { power: Power.OFF }));
    t.equal(off.state, "stopped", "it is off");
    t.equal(await w.driver.metrics(plan.id), undefined, "without counters");
    t.equal((await w.ensure(plan)).state, "running", "and on again");
    await w.remove(plan);
  },

  "an end is told with its exit code, and what was printed is kept": async (t, w) => {
    const plan = w.plan("wl-ends", w.bench.ending);
    const ended = w.nextEnd(plan.id);
    await w.ensure(plan);
    t.equal((await ended).clean, false, "it did not end well");
    const { state, container } = (await w.driver.inspect(plan.id)) ?? {};
    t.equal(state, "stopped", "it has stopped");
    const end = { health: "", exited: true, exitCode: 3, gpus: [], missingGpus: [] };
    t.same(container, end, "with its exit code");
    const lines = await readLog(logPathOf(plan.directory), 10);
    t.ok(lines.length > 0, "its words are kept");
    const again = w.nextEnd(plan.id);
    await w.ensure(plan);
    t.ok(await again, "and its next end is told as well");
    await w.remove(plan);
  },

  "one that is killed from outside is told of": async (t, w) => {
    const plan = w.plan("wl-killed", w.bench.lasting);
    const ended = w.nextEnd(plan.id);
    await w.ensure(plan);
    await w.bench.crash(plan.id);
    t.equal((await ended).clean, false, "it did not end well");
    t.equal((await w.ensure(plan)).state, "running", "ensure starts it again");
    await w.remove(plan);
  },

  "the unhealthy are ended, the healthy are told to be": async (t, w) => {
    const checked = (id: string, command: string) => {
      const health = create(HealthCheckSchema, {
        command: [command],
        ...{ intervalSeconds: 1, timeoutSeconds: 5, retries: 1 },
      });
      const container = create(ContainerSchema, { command: [...w.bench.lasting], health });
      return w.plan(id, [], { container });
    };
    const [well, ill] = [checked("wl-well", "true"), checked("wl-ill", "false")];
    const ended = w.nextEnd(ill.id);
    t.equal((await w.ensure(well)).container?.health, "starting", "at first nobody knows");
    await w.ensure(ill);
    const { clean, detail } = await ended;
    t.same([clean, detail], [false, "it was ended because it was unhealthy"], "the ill one is ended");
    while ((await w.driver.inspect(well.id))?.container?.health !== "healthy") await sleep(50, w.signal);
    t.equal((await w.driver.inspect(well.id))?.state, "running", "the healthy one runs on");
    await Promise.all([w.remove(well), w.remove(ill)]);
  },

  "containers outlive the driver, but not a power cut": async (t, w) => {
    const plan = w.plan("wl-outlives", w.bench.lasting);
    const before = await w.ensure(plan);
    w.driver = await w.bench.successor();
    const [found] = await w.driver.recover([plan], w.signal);
    t.equal(found?.state, "running", "it is found running");
    t.same((await w.ensure(plan)).startedAt, before.startedAt, "and was not restarted");
    const ended = w.nextEnd(plan.id);
    await w.bench.crash(plan.id);
    t.equal((await ended).clean, false, "its end is told to the successor");
    await w.ensure(plan);
    w.driver = await w.bench.afterPowerCut();
    const [dark] = await w.driver.recover([plan], w.signal);
    t.equal(dark?.state, "stopped", "after the power cut it does not run");
    t.equal((await w.ensure(plan)).state, "running", "and is started again");
    await w.remove(plan);
  },

  "what ends while nobody looks is told by whoever looks next": async (t, w) => {
    const plan = w.plan("wl-unseen", w.bench.ending);
    const ended = w.nextEnd(plan.id);
    await w.ensure(plan);
    await ended;
    const lasting = w.plan("wl-seen", w.bench.lasting);
    await w.ensure(lasting);
    w.driver = await w.bench.successor();
    const [unseen, seen] = await w.driver.recover([plan, lasting], w.signal);
    t.equal(unseen?.ended?.clean, false, "with how it ended");
    t.equal(seen?.ended, undefined, "one that runs has not");
    w.driver = await w.bench.afterPowerCut();
    const [, dark] = await w.driver.recover([plan, lasting], w.signal);
    t.same(
      [dark?.state, dark?.ended],
      ["stopped", undefined],
      "nor has one that the host's own end has ended",
    );
    await Promise.all([w.remove(plan), w.remove(lasting)]);
  },

  "an aborted ensure can be carried on": async (t, w) => {
    const plan = w.plan("wl-aborted", w.bench.lasting);
    const already = new AbortController();
    already.abort(new Error("no longer wanted"));
    const fault = await w.driver.ensure(plan, already.signal).catch(toFault);
    t.ok("code" in fault, "an aborted signal ends it");
    t.equal((await w.ensure(plan)).state, "running", "a later ensure gets there");
    await w.remove(plan);
  },
};
