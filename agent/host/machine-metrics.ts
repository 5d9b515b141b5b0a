/** How busy machines are: the driver's counters, and the CPU usage between two looks at them. */
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { Logger } from "#kernel/log.ts";
import { Fault } from "#kernel/fault.ts";
import { type Machine, MachineState } from "#gen/skerry/agent/v1/machine_pb.js";
import { type MachineMetrics, MachineMetricsSchema } from "#gen/skerry/agent/v1/metrics_pb.js";
import type { DriverMetrics, MachineDriver } from "../drivers/driver.ts";

export interface MachineSamplerOptions {
  readonly driver: Pick<MachineDriver, "metrics">;
  readonly log: Logger;
  readonly now?: () => number;
}

interface Mark {
  readonly atMs: number;
  readonly cpuSeconds: number;
}

export class MachineSampler {
  readonly #driver: MachineSamplerOptions["driver"];
  readonly #log: Logger;
  readonly #now: () => number;
  #marks = new Map<string, Mark>();

  constructor({ driver, log, now = Date.now }: MachineSamplerOptions) {
    this.#driver = driver;
    this.#log = log;
    this.#now = now;
  }

  /** Samples of those machines that run; usage covers the time since the last call. */
  async sampleAll(machines: readonly Machine[]): Promise<readonly MachineMetrics[]> {
    const marks = new Map<string, Mark>();
    const samples: MachineMetrics[] = [];
    for (const machine of machines) {
      if (machine.state !== MachineState.RUNNING) continue;
      const found = await this.#read(machine.id);
      if (!found) continue;
      const mark = { atMs: this.#now(), cpuSeconds: found.cpuSeconds };
      samples.push(toMetrics(machine, found, this.#marks.get(machine.id), mark));
      marks.set(machine.id, mark);
    }
    this.#marks = marks;
    return samples;
  }

  /** One machine now, since the last `sampleAll`. Throws `conflict` when it does not run. */
  async sample(machine: Machine): Promise<MachineMetrics> {
    const found = await this.#driver.metrics(machine.id);
    if (!found) {
      throw new Fault("conflict", "the machine does not run", { reason: "MACHINE_NOT_RUNNING" });
    }
    const mark = { atMs: this.#now(), cpuSeconds: found.cpuSeconds };
    return toMetrics(machine, found, this.#marks.get(machine.id), mark);
  }

  /** One machine that does not answer must not cost the others their samples. */
  async #read(id: string): Promise<DriverMetrics | undefined> {
    try {
      return await this.#driver.metrics(id);
    } catch (fault) {
      this.#log.warn("sample.failed", { machine: id, fault });
      return undefined;
    }
  }
}

function toMetrics(
  machine: Machine,
  found: DriverMetrics,
  before: Mark | undefined,
  now: Mark,
): MachineMetrics {
  return create(MachineMetricsSchema, {
    ...found,
    machineId: machine.id,
    at: timestampFromMs(now.atMs),
    cpuUsage: deriveUsage(before, now, machine.vcpus),
  });
}

/** 0 to 1 of all vCPUs. A counter that went back is that of a machine that was started anew. */
export function deriveUsage(before: Mark | undefined, now: Mark, vcpus: number): number {
  if (!before || now.atMs <= before.atMs || vcpus === 0) return 0;
  const spent = now.cpuSeconds >= before.cpuSeconds ? now.cpuSeconds - before.cpuSeconds : now.cpuSeconds;
  return Math.min(1, spent / ((now.atMs - before.atMs) / 1000) / vcpus);
}
