/**
 * The product with fake containers inside. They are files, so that they outlive an engine as real ones do. What a
 * container does is in its command: `exit N` ends it at once, all else runs until it is ended; its health check is
 * passed unless its command is `false`.
 */
import { mkdir, readdir, readFile, rename, rm, writeFile, appendFile } from "node:fs/promises";
import { join } from "node:path";
import { Fault } from "#kernel/fault.ts";
import type { ContainerEngine, ContainerSetup, ContainerUsage, FoundContainer } from "../engine.ts";
import { Waiters } from "../../machines/waiters.ts";

export interface FakeEngineOptions {
  readonly stateDirectory: string;
  readonly now?: () => number;
  /** Another one is another start of the host: nothing runs any more. */
  readonly bootId?: string;
}

interface Stored {
  readonly shape: string;
  readonly setup: ContainerSetup;
  readonly state: FoundContainer["state"];
  readonly startedMs: number | undefined;
  readonly exitCode: number;
  readonly endedMs?: number;
  readonly bootId: string;
}

const killed = 137;

export class FakeEngine implements ContainerEngine {
  readonly name = "fake";
  readonly #directory: string;
  readonly #now: () => number;
  readonly #bootId: string;
  readonly #changes = new Waiters();
  /** A file is read and written in one go, for one caller at a time. */
  #tail: Promise<unknown> = Promise.resolve();

  constructor({ stateDirectory, now = Date.now, bootId = "" }: FakeEngineOptions) {
    this.#directory = stateDirectory;
    this.#now = now;
    this.#bootId = bootId;
  }

  async probe(): Promise<string> {
    return "1";
  }

  /** There is no registry that it could reach. */
  async pull(reference: string): Promise<string> {
    if (reference.startsWith("registry.test/")) return reference;
    throw new Fault("unavailable", `the registry of the image ${reference} cannot be reached from the host`, {
      reason: "REGISTRY_UNREACHABLE",
    });
  }

  async load({ sha256 }: { readonly sha256: string }): Promise<string> {
    return `sha256:${sha256}`;
  }

  async refusesDevice(): Promise<undefined> {
    return undefined;
  }

  list(): Promise<readonly FoundContainer[]> {
    return this.#alone(async () => {
      const names = await readdir(this.#directory).catch(() => []);
      const ids = names.flatMap((name) => (name.endsWith(".json") ? [name.slice(0, -".json".length)] : []));
      const found = await Promise.all(ids.map((id) => this.#read(id)));
      return ids.flatMap((id, index) => toFound(id, found[index]) ?? []);
    });
  }

  find(id: string): Promise<FoundContainer | undefined> {
    return this.#alone(async () => toFound(id, await this.#read(id)));
  }

  create(id: string, shape: string, setup: ContainerSetup): Promise<void> {
    return this.#alone(async () => {
      if (await this.#read(id)) throw new Fault("conflict", "the container exists");
      const made = { state: "created", startedMs: undefined, exitCode: 0, bootId: this.#bootId } as const;
      await this.#write(id, { shape, setup, ...made });
    });
  }

  start(id: string): Promise<void> {
    return this.#change(id, async (stored) => {
      if (stored.state === "running") return stored;
      const { command, logPath } = stored.setup;
      const startedMs = this.#now();
      await appendFile(logPath, `${new Date(startedMs).toISOString()} stdout F ${command.join(" ")}\n`);
      const [word, exitCode = "0"] = command;
      const ends = word === "exit";
      const state = ends ? "exited" : "running";
      return {
        ...{ ...stored, state, startedMs, exitCode: ends ? Number(exitCode) : 0, bootId: this.#bootId },
        ...(ends && { endedMs: startedMs }),
      };
    });
  }

  stop(id: string): Promise<void> {
    return this.#end(id, 0);
  }

  kill(id: string): Promise<void> {
    return this.#end(id, killed);
  }

  remove(id: string): Promise<void> {
    return this.#alone(async () => {
      await rm(this.#path(id), { force: true });
      this.#changes.release();
    });
  }

  async isHealthy(id: string): Promise<boolean> {
    const stored = await this.#alone(() => this.#read(id));
    return stored?.state === "running" && stored.setup.health[0] !== "false";
  }

  async usage(id: string): Promise<ContainerUsage | undefined> {
    const stored = await this.#alone(() => this.#read(id));
    if (stored?.state !== "running") return undefined;
    const nothing = { networkInBytes: 0n, networkOutBytes: 0n, diskReadBytes: 0n, diskWriteBytes: 0n };
    const cpuSeconds = (this.#now() - (stored.startedMs ?? 0)) / 1000;
    return { cpuSeconds, memoryUsedBytes: BigInt(stored.setup.memoryBytes / 2), ...nothing };
  }

  async *hints(signal: AbortSignal): AsyncGenerator<void> {
    while (!signal.aborted) {
      const changed = this.#changes.wait(60_000, signal);
      yield;
      await changed;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#tail;
  }

  #end(id: string, exitCode: number): Promise<void> {
    return this.#change(id, async (stored) =>
      stored.state === "running" ? { ...stored, state: "exited", exitCode, endedMs: this.#now() } : stored,
    );
  }

  #change(id: string, change: (stored: Stored) => Promise<Stored>): Promise<void> {
    return this.#alone(async () => {
      const stored = await this.#read(id);
      if (!stored) throw new Fault("notFound", "there is no such container");
      await this.#write(id, await change(stored));
      this.#changes.release();
    });
  }

  #alone<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work);
    this.#tail = result.catch(() => undefined); // told to whoever asked for it
    return result;
  }

  async #read(id: string): Promise<Stored | undefined> {
    const text = await readFile(this.#path(id), "utf8").catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return undefined;
      throw error;
    });
    if (text === undefined) return undefined;
    const stored = JSON.parse(text) as Stored;
    if (stored.bootId === this.#bootId || stored.state !== "running") return stored;
    const { endedMs: _, ...unseen } = stored;
    return { ...unseen, state: "exited", exitCode: killed };
  }

  async #write(id: string, stored: Stored): Promise<void> {
    await mkdir(this.#directory, { recursive: true });
    const path = this.#path(id);
    await writeFile(`${path}.new`, JSON.stringify(stored));
    await rename(`${path}.new`, path);
  }

  #path(id: string): string {
    return join(this.#directory, `${id}.json`);
  }
}

function toFound(id: string, stored: Stored | undefined): FoundContainer | undefined {
  if (!stored) return undefined;
  const { shape, state, startedMs, exitCode, endedMs } = stored;
  const ended = state === "exited" && endedMs !== undefined && endedMs >= (startedMs ?? 0);
  return {
    ...{ id, shape, state, exitCode },
    startedAt: startedMs === undefined ? undefined : new Date(startedMs),
    endedAt: ended ? new Date(endedMs) : undefined,
  };
}
