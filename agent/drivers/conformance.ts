/**
 * The cases that every driver passes: what the manager relies on, and nothing about how a driver
 * does it. A driver's own tests call this with a bench; the assertions come in as a parameter so
 * that production code knows no test runner.
 */
import { readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { toFault } from "#kernel/fault.ts";
import { deadline, sleep } from "#kernel/retry.ts";
import { type MachineSpec, MachineSpecSchema, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import type { DriverMachine, LocalImage, MachineDriver, MachineEvent, MachinePlan } from "./driver.ts";

/** The part of a test runner that the suite needs; tap's `t` fits. */
export interface Suite {
  test(name: string, body: (t: Suite) => Promise<void>): PromiseLike<unknown>;
  equal(found: unknown, wanted: unknown, message: string): unknown;
  same(found: unknown, wanted: unknown, message: string): unknown;
  not(found: unknown, wanted: unknown, message: string): unknown;
  ok(value: unknown, message: string): unknown;
}

/** One host of the driver under test, with nothing on it yet. */
export interface Bench extends AsyncDisposable {
  readonly driver: MachineDriver;
  readonly image: LocalImage;
  /** An existing folder below which machines get theirs. */
  readonly directory: string;
  /** A new driver over what the last one left behind, as after `kill -9` of the agent. */
  successor(): Promise<MachineDriver>;
  /** Kills the machine from outside, as `kill -9` of its process would. */
  crash(id: string): Promise<void>;
}

export interface ConformanceOptions {
  make(): Promise<Bench>;
  /** Longest that any one call or event may take. */
  readonly limitMs: number;
}

const MiB = 1024n ** 2n;

/** Runs all cases; each gets a bench of its own. */
export async function driverConformance(t: Suite, options: ConformanceOptions): Promise<void> {
  for (const [name, body] of Object.entries(cases)) {
    await t.test(name, async (child) => {
      await using bench = await options.make();
      using signal = deadline(options.limitMs, name);
      await body(child, new Workbench(bench, signal));
    });
  }
}

class Workbench {
  readonly bench: Bench;
  readonly signal: AbortSignal;

  constructor(bench: Bench, signal: AbortSignal) {
    this.bench = bench;
    this.signal = signal;
  }

  get driver(): MachineDriver {
    return this.bench.driver;
  }

  plan(id: string, change: Partial<MachineSpec> = {}): MachinePlan {
    const spec = create(MachineSpecSchema, {
      name: id,
      hostname: id,
      vcpus: 1,
      memoryBytes: 128n * MiB,
      diskBytes: 64n * MiB,
      power: Power.ON,
      stopTimeoutSeconds: 0,
    });
    const directory = join(this.bench.directory, id);
    return { id, spec: Object.assign(spec, change), image: this.bench.image, directory };
  }

  ensure(plan: MachinePlan, driver = this.driver): Promise<DriverMachine> {
    return driver.ensure(plan, this.signal);
  }

  remove(plan: MachinePlan, driver = this.driver): Promise<void> {
    return driver.remove(plan.id, plan.directory, this.signal);
  }

  /** Waits until the machine looks as wanted. */
  async until(
    id: string,
    looks: (found: DriverMachine | undefined) => boolean,
    driver = this.driver,
  ): Promise<DriverMachine | undefined> {
    for (;;) {
      const found = await driver.inspect(id);
      if (looks(found)) return found;
      await sleep(20, this.signal);
    }
  }
}

type Case = (t: Suite, w: Workbench) => Promise<void>;

const cases: Record<string, Case> = {
  "ensure creates and starts; again it changes nothing": async (t, w) => {
    const plan = w.plan("vm-twice");
    const first = await w.ensure(plan);
    t.equal(first.state, "running", "it runs");
    t.equal(first.vcpus, 1, "with the vCPUs asked for");
    t.equal(first.memoryBytes, 128n * MiB, "with the memory asked for");
    t.equal(first.diskBytes, 64n * MiB, "with the disk asked for");
    t.same(first.pendingRestart, [], "nothing is pending");
    const second = await w.ensure(plan);
    t.same(second.startedAt, first.startedAt, "the second ensure did not restart it");
    t.same(await w.driver.inspect(plan.id), second, "inspect agrees with ensure");
    await w.remove(plan);
  },

  "what is on its disk can be had as a file of its own": async (t, w) => {
    const copies = w.driver.diskCopies;
    if (!copies) return;
    const plan = w.plan("vm-copied");
    const on = await w.ensure(plan);
    const path = join(w.bench.directory, "copy");
    for (const power of [Power.ON, Power.OFF]) {
      plan.spec.power = power;
      await w.ensure(plan);
      await copies.copyDisk(plan, path, () => undefined, w.signal);
      t.ok(
        (await stat(path)).size > 0,
        `there it is, of a machine that is ${power === Power.ON ? "on" : "off"}`,
      );
      await rm(path);
      if (power === Power.ON) t.same(await w.driver.inspect(plan.id), on, "which runs on");
    }
    await w.remove(plan);
  },

  "a machine can be made without being started": async (t, w) => {
    const plan = w.plan("vm-cold", { power: Power.OFF });
    const made = await w.ensure(plan);
    t.equal(made.state, "stopped", "it does not run");
    t.equal(made.startedAt, undefined, "and has not started");
    t.equal(await w.driver.metrics(plan.id), undefined, "a stopped machine has no counters");
    await w.remove(plan);
  },

  "power off and on again": async (t, w) => {
    const on = w.plan("vm-power");
    const first = await w.ensure(on);
    const off = await w.ensure(w.plan("vm-power", { power: Power.OFF }));
    t.equal(off.state, "stopped", "it is off");
    t.equal((await w.ensure(w.plan("vm-power", { power: Power.OFF }))).state, "stopped", "off twice is off");
    const again = await w.ensure(on);
    t.equal(again.state, "running", "it runs again");
    t.ok(startedMs(again) >= startedMs(first), "with a start of its own");
    await w.remove(on);
  },

  "growing: the disk at once, the rest now or at the next start": async (t, w) => {
    await w.ensure(w.plan("vm-grow"));
    const larger = { vcpus: 2, memoryBytes: 256n * MiB, diskBytes: 128n * MiB };
    const grown = await w.ensure(w.plan("vm-grow", larger));
    t.equal(grown.state, "running", "it still runs");
    t.equal(grown.diskBytes, 128n * MiB, "the disk has grown");
    t.equal(grown.vcpus === 2 || grown.pendingRestart.includes("cpus"), true, "vCPUs: grown or pending");
    t.equal(
      grown.memoryBytes === 256n * MiB || grown.pendingRestart.includes("memory_bytes"),
      true,
      "memory: grown or pending",
    );
    await w.ensure(w.plan("vm-grow", { ...larger, power: Power.OFF }));
    const restarted = await w.ensure(w.plan("vm-grow", larger));
    t.equal(restarted.vcpus, 2, "a restart applies vCPUs");
    t.equal(restarted.memoryBytes, 256n * MiB, "a restart applies memory");
    t.same(restarted.pendingRestart, [], "then nothing is pending");
    await w.remove(w.plan("vm-grow"));
  },

  "a disk does not shrink": async (t, w) => {
    const plan = w.plan("vm-shrink", { diskBytes: 128n * MiB, power: Power.OFF });
    await w.ensure(plan);
    const fault = await faultOf(w.ensure(w.plan("vm-shrink", { power: Power.OFF })));
    t.equal(fault, "invalid", "a smaller disk is refused");
    t.equal((await w.driver.inspect(plan.id))?.diskBytes, 128n * MiB, "and nothing was cut off");
    await w.remove(plan);
  },

  "remove: running or not, twice, and what never was": async (t, w) => {
    const plan = w.plan("vm-gone");
    await w.ensure(plan);
    await w.remove(plan);
    t.equal(await w.driver.inspect(plan.id), undefined, "it is gone");
    t.equal(await isAbsent(plan.directory), true, "and so is its folder");
    await w.remove(plan);
    await w.remove(w.plan("vm-never"));
    t.equal((await w.ensure(plan)).state, "running", "the id can be used again");
    await w.remove(plan);
  },

  "inspect of an unknown machine": async (t, w) => {
    t.equal(await w.driver.inspect("vm-unknown"), undefined, "is undefined");
    t.equal(await w.driver.metrics("vm-unknown"), undefined, "and it has no counters");
  },

  "machines outlive the driver": async (t, w) => {
    const running = w.plan("vm-outlives");
    const stopped = w.plan("vm-stays-off", { power: Power.OFF });
    const before = await w.ensure(running);
    await w.ensure(stopped);
    const successor = await w.bench.successor();
    const found = await successor.recover([running, stopped, w.plan("vm-never-made")], w.signal);
    const states = Object.fromEntries(found.map((machine) => [machine.id, machine.state]));
    t.equal(states[running.id], "running", "the running one is found running");
    t.equal(states[stopped.id], "stopped", "the stopped one stopped");
    t.equal("vm-never-made" in states, false, "one that was never made is not reported");
    const after = await w.ensure(running, successor);
    t.same(after.startedAt, before.startedAt, "it was not restarted");
    await w.remove(running, successor);
    await w.remove(stopped, successor);
    t.equal(await successor.inspect(running.id), undefined, "the successor can remove it");
  },

  "a crash is told, and ensure starts it again": async (t, w) => {
    const plan = w.plan("vm-crash");
    const events = w.driver.events(w.signal)[Symbol.asyncIterator]();
    const first = await w.ensure(plan);
    const ended = nextEnd(events, plan.id);
    await w.bench.crash(plan.id);
    t.equal((await ended).clean, false, "the end was not clean");
    await w.until(plan.id, (found) => found?.state === "stopped");
    const again = await w.ensure(plan);
    t.equal(again.state, "running", "it runs again");
    t.ok(startedMs(again) >= startedMs(first), "with a start of its own");
    await w.remove(plan);
  },

  "a crash while no agent ran is found by recover": async (t, w) => {
    const plan = w.plan("vm-died-alone");
    await w.ensure(plan);
    await w.bench.crash(plan.id);
    const successor = await w.bench.successor();
    const [found] = await successor.recover([plan], w.signal);
    t.equal(found?.state, "stopped", "it is found stopped");
    t.equal((await w.ensure(plan, successor)).state, "running", "and can be started");
    await w.remove(plan, successor);
  },

  "an aborted ensure can be carried on": async (t, w) => {
    const plan = w.plan("vm-aborted");
    const already = new AbortController();
    already.abort(new Error("no longer wanted"));
    t.ok(await faultOf(w.driver.ensure(plan, already.signal)), "an aborted signal ends it");
    const midway = new AbortController();
    const ensuring = w.driver.ensure(plan, midway.signal).catch(() => undefined);
    setImmediate(() => midway.abort(new Error("no longer wanted")));
    await ensuring;
    t.equal((await w.ensure(plan)).state, "running", "a later ensure gets there");
    await w.remove(plan);
  },

  "counters of a running machine only grow": async (t, w) => {
    const plan = w.plan("vm-counters");
    await w.ensure(plan);
    const first = await w.driver.metrics(plan.id);
    const second = await w.driver.metrics(plan.id);
    t.ok(first && second, "there are counters");
    t.ok((second?.cpuSeconds ?? -1) >= (first?.cpuSeconds ?? 0), "CPU time grows");
    t.ok((first?.memoryTotalBytes ?? 0n) > 0n, "memory is known");
    await w.remove(plan);
  },

  "the console, where there is one": async (t, w) => {
    const access = w.driver.console;
    if (!access) return;
    const plan = w.plan("vm-console");
    await w.ensure(plan);
    const path = access.logPath(plan.directory);
    await poll(w.signal, async () => (await readOr(path)).length > 0);
    const port = await access.connect(plan.id, w.signal);
    port.resume();
    const before = (await readOr(path)).length;
    port.write("\r");
    await poll(w.signal, async () => (await readOr(path)).length > before);
    t.ok(true, "what is typed is answered in the log");
    port.destroy();
    const again = await access.connect(plan.id, w.signal);
    t.ok(again.writable, "the port can be opened again after it was closed");
    again.destroy();
    await w.remove(plan);
  },

  "probe tells what the host can do": async (t, w) => {
    const facts = await w.driver.probe(w.signal);
    t.ok(facts.version !== "", "it has a version");
    t.ok(facts.accelerationReason !== "", "acceleration comes with its reason");
    t.equal(facts.capabilities.includes("console"), w.driver.console !== undefined, "console is told");
  },
};

function startedMs(machine: DriverMachine): number {
  return machine.startedAt?.getTime() ?? NaN;
}

async function nextEnd(
  events: AsyncIterator<MachineEvent>,
  id: string,
): Promise<MachineEvent & { type: "ended" }> {
  for (;;) {
    const next = await events.next();
    if (next.done) throw new Error("the events ended first");
    if (next.value.type === "ended" && next.value.id === id) return next.value;
  }
}

async function faultOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "";
  } catch (thrown) {
    return toFault(thrown).code;
  }
}

async function poll(signal: AbortSignal, holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await sleep(20, signal);
}

async function readOr(path: string): Promise<string> {
  return readFile(path, "latin1").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "";
    throw error;
  });
}

async function isAbsent(path: string): Promise<boolean> {
  return readFile(path).then(
    () => false,
    (error: NodeJS.ErrnoException) => error.code === "ENOENT",
  );
}
