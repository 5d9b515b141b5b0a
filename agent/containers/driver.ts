/**
 * Containers as machines: the ledger, the fences, the restarts with their backoff and the reports are those of virtual
 * machines. A container has nothing that could be lost, so one that has vanished is made anew.
 */
import { createHash } from "node:crypto";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { EventEmitter, on } from "node:events";
import os from "node:os";
import { join } from "node:path";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { backoffMs, deadline, sleep } from "#kernel/retry.ts";
import { Power } from "#gen/skerry/agent/v1/machine_pb.js";
import type {
  DriverFacts,
  DriverMachine,
  DriverMetrics,
  MachineDriver,
  MachineEvent,
  MachinePlan,
} from "../drivers/driver.ts";
import { Waiters } from "../machines/waiters.ts";
import type { ContainerEngine, ContainerSetup, FoundContainer } from "./engine.ts";
import { HealthWatch } from "./health.ts";

export interface ContainerDriverOptions {
  readonly engine: ContainerEngine;
  /** Absent: the host has no GPUs for containers. */
  readonly gpus?: { has(device: string): boolean };
  readonly log: Logger;
  readonly now?: () => number;
}

/** Every end is looked for so often, hint or not. */
const lookEveryMs = 10_000;
const callLimitMs = 30_000;
const watchBackoff = { baseMs: 500, capMs: 30_000 };

/** Says of a machine's folder that it is a container's. */
export const markOf = (directory: string) => join(directory, "container");
/** What a container prints. */
export const logPathOf = (directory: string) => join(directory, "container.log");

export class ContainerDriver implements MachineDriver {
  readonly #engine: ContainerEngine;
  readonly #gpus: ContainerDriverOptions["gpus"];
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #health: HealthWatch;
  readonly #plans = new Map<string, MachinePlan>();
  /** Those that were started and whose end has not been told; a new start is a new object. */
  readonly #started = new Map<string, object>();
  readonly #events = new EventEmitter();
  readonly #hinted = new Waiters();
  readonly #starts = new Waiters();

  constructor({ engine, gpus, log, now = Date.now }: ContainerDriverOptions) {
    this.#engine = engine;
    this.#gpus = gpus;
    this.#log = log;
    this.#now = now;
    this.#health = new HealthWatch({
      check: (id, signal) => engine.isHealthy(id, signal),
      onChange: (id, health) => {
        this.#tell({ id, type: "changed" });
        if (health === "unhealthy") this.#end(id);
      },
      ...{ log, now },
    });
  }

  get name(): ContainerEngine["name"] {
    return this.#engine.name;
  }

  /** Whether it has ever been asked for this one. */
  knows(id: string): boolean {
    return this.#plans.has(id);
  }

  async probe(signal: AbortSignal): Promise<DriverFacts> {
    const version = await this.#engine.probe(signal);
    const accelerationReason = "containers run on the host's own kernel";
    return { version, acceleration: "none", accelerationReason, capabilities: ["containers"] };
  }

  async recover(plans: readonly MachinePlan[], signal: AbortSignal): Promise<readonly DriverMachine[]> {
    for (const plan of plans) this.#plans.set(plan.id, plan);
    if (plans.length === 0) return [];
    const found = new Map((await this.#listOrNone(signal)).map((container) => [container.id, container]));
    return plans.map((plan) => {
      const container = found.get(plan.id);
      if (container?.state === "running") this.#watch(plan, container);
      const at = container?.endedAt;
      // One that the host's own end has ended has not ended by itself, whatever it said then.
      const byItself = at !== undefined && at.getTime() > this.#now() - os.uptime() * 1000;
      return {
        ...this.#view(plan, container),
        ...(byItself && { ended: { at, ...endOf(container, false) } }),
      };
    });
  }

  async ensure(plan: MachinePlan, signal: AbortSignal): Promise<DriverMachine> {
    const { id, spec, directory } = plan;
    signal.throwIfAborted();
    this.#plans.set(id, plan);
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await writeFile(markOf(directory), "");
    const setup = toSetup(plan);
    const shape = shapeOf(setup);
    let found = await this.#engine.find(id, signal);
    const on = spec.power === Power.ON;
    const fits = found?.shape === shape;
    if (found?.state === "running" && !(on && fits)) {
      this.#forget(id);
      await this.#engine.stop(id, spec.stopTimeoutSeconds, signal);
    }
    if (found && !fits) {
      await this.#engine.remove(id, signal);
      found = undefined;
    }
    if (!found) await this.#engine.create(id, shape, setup, signal);
    if (on && found?.state !== "running") {
      this.#forget(id);
      await this.#engine.start(id, signal);
    }
    const now = await this.#engine.find(id, signal);
    if (on && now) this.#watch(plan, now);
    // One that has ended already is told of by whoever looks next.
    if (on) this.#hinted.release();
    return this.#view(plan, now);
  }

  async remove(id: string, directory: string, signal: AbortSignal): Promise<void> {
    this.#forget(id);
    await this.#engine.remove(id, signal);
    this.#plans.delete(id);
    await rm(directory, { recursive: true, force: true });
  }

  async inspect(id: string): Promise<DriverMachine | undefined> {
    const plan = this.#plans.get(id);
    if (!plan) return undefined;
    using limit = deadline(callLimitMs, "looking at the container");
    return this.#view(plan, await this.#engine.find(id, limit));
  }

  async metrics(id: string): Promise<DriverMetrics | undefined> {
    const plan = this.#plans.get(id);
    if (!plan || !this.#started.has(id)) return undefined;
    using limit = deadline(callLimitMs, "measuring the container");
    const usage = await this.#engine.usage(id, limit);
    if (!usage) return undefined;
    const unknown = { diskReadOperations: 0n, diskWriteOperations: 0n, diskAllocatedBytes: 0n };
    return { ...usage, memoryTotalBytes: plan.spec.memoryBytes, ...unknown };
  }

  async *events(signal: AbortSignal): AsyncGenerator<MachineEvent> {
    const source = on(this.#events, "event", { signal });
    const watching = new AbortController();
    const stop = AbortSignal.any([signal, watching.signal]);
    void this.#hearHints(stop);
    void this.#lookForEnds(stop);
    try {
      for await (const [event] of source) yield event as MachineEvent;
    } catch (thrown) {
      if (!signal.aborted) throw thrown;
    } finally {
      watching.abort();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#health[Symbol.dispose]();
    await this.#engine[Symbol.asyncDispose]();
  }

  /** A host whose engine does not work just now must still serve its other machines. */
  async #listOrNone(signal: AbortSignal): Promise<readonly FoundContainer[]> {
    try {
      const listed = await this.#engine.list(signal);
      const exact = async (one: FoundContainer) =>
        one.state === "exited" ? ((await this.#engine.find(one.id, signal)) ?? one) : one;
      return await Promise.all(listed.map(exact));
    } catch (thrown) {
      this.#log.error("containers.not_listed", { fault: toFault(thrown) });
      return [];
    }
  }

  /** Passes hints on while there is something to wait for; when none are to be had, the looks come by the clock. */
  async #hearHints(signal: AbortSignal): Promise<void> {
    for (let attempt = 0; !signal.aborted;) {
      if (this.#started.size === 0) {
        await this.#starts.wait(lookEveryMs, signal);
        continue;
      }
      try {
        for await (const _ of this.#engine.hints(signal)) {
          attempt = 0;
          this.#hinted.release();
        }
      } catch (thrown) {
        if (!signal.aborted) this.#log.warn("containers.hints", { attempt, fault: toFault(thrown) });
      }
      await sleep(backoffMs(attempt++, watchBackoff), signal).catch(() => undefined); // aborted: the loop ends
    }
  }

  async #lookForEnds(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#hinted.wait(lookEveryMs, signal);
      if (signal.aborted || this.#started.size === 0) continue;
      await this.#tellEnds(signal).catch((thrown: unknown) => {
        if (!signal.aborted) this.#log.warn("containers.not_listed", { fault: toFault(thrown) });
      });
    }
  }

  async #tellEnds(signal: AbortSignal): Promise<void> {
    // What is started from here on is not in the list, and has not ended for that.
    const before = new Map(this.#started);
    using limit = deadline(callLimitMs, "listing the containers", signal);
    const found = new Map((await this.#engine.list(limit)).map((container) => [container.id, container]));
    for (const [id, start] of before) {
      const container = found.get(id);
      if (container?.state === "running" || this.#started.get(id) !== start) continue;
      const end = endOf(container, this.#health.of(id) === "unhealthy");
      this.#forget(id);
      this.#tell({ id, type: "ended", ...end });
    }
  }

  #watch({ id, spec }: MachinePlan, { startedAt, state }: FoundContainer): void {
    if (!this.#started.has(id)) this.#started.set(id, {});
    this.#starts.release();
    const { health } = spec.container ?? {};
    if (health && state === "running") this.#health.start(id, startedAt ?? new Date(), health);
  }

  #forget(id: string): void {
    this.#started.delete(id);
    this.#health.stop(id);
  }

  /** Ends one that is unhealthy; what follows is the restart policy's business. */
  #end(id: string): void {
    const limit = deadline(callLimitMs, "ending an unhealthy container");
    this.#engine
      .kill(id, limit)
      .catch((thrown: unknown) =>
        this.#log.warn("containers.not_ended", { workload: id, fault: toFault(thrown) }),
      )
      .finally(() => {
        limit[Symbol.dispose]();
        this.#hinted.release();
      });
  }

  #tell(event: MachineEvent): void {
    this.#events.emit("event", event);
  }

  #view({ id, spec, devices = [] }: MachinePlan, found: FoundContainer | undefined): DriverMachine {
    const runs = found?.state === "running";
    const exited = found?.state === "exited";
    return {
      id,
      // One that has ended and been told of by nobody is about to be.
      state: runs ? "running" : this.#started.has(id) ? "stopping" : "stopped",
      vcpus: spec.vcpus,
      memoryBytes: spec.memoryBytes,
      diskBytes: spec.diskBytes,
      pendingRestart: [],
      guestAddress: "",
      forwards: spec.forwards.map(({ protocol, guestPort, hostPort, hostAddress }) => ({
        ...{ protocol, guestPort, hostPort },
        hostAddress: hostAddress || localAddress,
      })),
      startedAt: runs ? found.startedAt : undefined,
      acceleration: "none",
      driver: this.name,
      container: {
        health: runs ? (this.#health.of(id) ?? "") : "",
        exited,
        exitCode: exited ? found.exitCode : 0,
        gpus: [...devices],
        missingGpus: devices.filter((device) => this.#gpus?.has(device) !== true),
      },
    };
  }
}

const localAddress = "127.0.0.1";

function toSetup({ spec, image, directory, devices = [] }: MachinePlan): ContainerSetup {
  if (!spec.container || image.type !== "container") {
    throw new Fault("internal", "the plan is not that of a container");
  }
  const { command, environment, health } = spec.container;
  return {
    image: image.reference,
    command,
    environment,
    hostname: spec.hostname,
    cpus: spec.vcpus,
    memoryBytes: Number(spec.memoryBytes),
    ports: spec.forwards.map(({ protocol, guestPort, hostPort, hostAddress }) => ({
      ...{ protocol, containerPort: guestPort, hostPort },
      hostAddress: hostAddress || localAddress,
    })),
    health: health?.command ?? [],
    devices,
    logPath: logPathOf(directory),
  };
}

/** The same for the same setup, whatever the order in which its variables came. */
function shapeOf({ environment, devices, ...setup }: ContainerSetup): string {
  const variables = Object.entries(environment).sort(([a], [b]) => (a < b ? -1 : 1));
  return createHash("sha256")
    .update(JSON.stringify([setup, variables, ...devices]))
    .digest("hex")
    .slice(0, 32);
}

function endOf(found: FoundContainer | undefined, unhealthy: boolean) {
  if (!found) return { clean: false, detail: "the container has vanished" };
  if (unhealthy) return { clean: false, detail: "it was ended because it was unhealthy" };
  return { clean: found.exitCode === 0, detail: `it ended with exit code ${String(found.exitCode)}` };
}
