/**
 * The GPUs that containers of this host may be given: those of its CDI specs that are there and that the engine hands
 * out. Looked for again and again: drivers come and go while the agent runs.
 */
import type { Logger } from "#kernel/log.ts";
import { toFault } from "#kernel/fault.ts";
import { sleep } from "#kernel/retry.ts";
import { type CdiDevice, readCdiDevices } from "./cdi.ts";
import type { ContainerEngine } from "./engine.ts";
import { findGpuModel } from "./gpu-model.ts";

export interface Gpu {
  /** `vendor/gpu=name`. */
  readonly device: string;
  readonly vendor: string;
  /** Empty: neither its spec nor the host tells. */
  readonly model: string;
}

export interface GpuReading {
  readonly gpus: readonly Gpu[];
  /** What is wrong with the host's specs, in words. */
  readonly problems: readonly string[];
}

export interface GpusOptions {
  /** Where vendors' tools write their specs; a later folder comes before an earlier one. */
  readonly folders: readonly string[];
  readonly engine: Pick<ContainerEngine, "refusesDevice">;
  readonly log: Logger;
  readonly lookEveryMs?: number;
}

const deviceClass = "gpu";
const lookEveryMs = 10_000;

export class Gpus {
  readonly #options: GpusOptions;
  /** What the engine said of a device, by what its spec was then; undefined: it takes it. */
  readonly #verdicts = new Map<string, string | undefined>();
  #reading: GpuReading = { gpus: [], problems: [] };
  #tail: Promise<unknown> = Promise.resolve();

  constructor(options: GpusOptions) {
    this.#options = options;
  }

  /** As it was read last. */
  get reading(): GpuReading {
    return this.#reading;
  }

  /** Whether the host has the device, as it was read last. */
  has(device: string): boolean {
    return this.#reading.gpus.some((gpu) => gpu.device === device);
  }

  /** The devices as they are now. One at a time looks. */
  read(signal: AbortSignal): Promise<readonly string[]> {
    const result = this.#tail.then(() => this.#read(signal));
    this.#tail = result.catch(() => undefined); // told to whoever asked
    return result;
  }

  /** Looks until the signal aborts; calls back when they are not what they were, the first time always. */
  async follow(onChange: (reading: GpuReading) => void, signal: AbortSignal): Promise<void> {
    const { folders, log, lookEveryMs: everyMs = lookEveryMs } = this.#options;
    if (folders.length === 0) return;
    let told = "";
    while (!signal.aborted) {
      try {
        await this.read(signal);
        const now = JSON.stringify(this.#reading);
        if (now !== told) onChange(this.#reading);
        told = now;
      } catch (thrown) {
        if (!signal.aborted) log.warn("gpus.not_read", { fault: toFault(thrown) });
      }
      await sleep(everyMs, signal).catch(() => undefined); // aborted: the loop ends
    }
  }

  async #read(signal: AbortSignal): Promise<readonly string[]> {
    const { folders, log } = this.#options;
    const { devices, problems } = await readCdiDevices(folders, deviceClass);
    const refusals: string[] = [];
    const gpus: Gpu[] = [];
    for (const device of devices) {
      const refusal = await this.#judge(device, signal);
      if (refusal !== undefined) refusals.push(`${device.name}: ${refusal}`);
      else gpus.push(await toGpu(device));
    }
    const reading = { gpus, problems: [...problems, ...refusals] };
    const news = reading.problems.filter((problem) => !this.#reading.problems.includes(problem));
    for (const problem of news) log.warn("gpus.problem", { problem });
    this.#reading = reading;
    return gpus.map(({ device }) => device);
  }

  async #judge({ name, digest }: CdiDevice, signal: AbortSignal): Promise<string | undefined> {
    const key = `${name} ${digest}`;
    if (!this.#verdicts.has(key)) {
      this.#verdicts.set(key, await this.#options.engine.refusesDevice(name, signal));
    }
    return this.#verdicts.get(key);
  }
}

async function toGpu({ name, vendor, model, nodes }: CdiDevice): Promise<Gpu> {
  return { device: name, vendor, model: model || (await findGpuModel(nodes)) };
}
