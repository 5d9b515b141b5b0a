/** Containers run by podman through its REST interface. No daemon but the agent's own child. */
import { createReadStream } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Fault, isFault } from "#kernel/fault.ts";
import type { ContainerEngine, ContainerSetup, ContainerUsage, FoundContainer } from "../engine.ts";
import type { CallOptions, PodmanClient } from "./client.ts";
import { shapeLabel, toPodmanSpec } from "./container-spec.ts";
import { findRefusal, runProbe } from "./probe.ts";
import { pullImage } from "./pull.ts";
import { PodmanService, type PodmanServiceOptions } from "./service.ts";

type Call = Omit<CallOptions, "signal">;

export class PodmanEngine implements ContainerEngine {
  readonly name = "podman";
  readonly #service: PodmanService;
  readonly #directory: string;

  constructor(options: PodmanServiceOptions) {
    this.#directory = options.stateDirectory;
    this.#service = new PodmanService(options);
  }

  async probe(signal: AbortSignal): Promise<string> {
    return await runProbe(await this.#service.client(signal), await this.#probeRoot(), signal);
  }

  async pull(reference: string, signal: AbortSignal): Promise<string> {
    return await pullImage(await this.#service.client(signal), reference, signal);
  }

  async load(
    { path, sha256 }: { readonly path: string; readonly sha256: string },
    signal: AbortSignal,
  ): Promise<string> {
    // Its name there says what it was made from.
    const repository = "localhost/skerry/archive";
    const reference = `${repository}:${sha256}`;
    if (await this.#has(`/images/${reference}/exists`, signal)) return reference;
    const content = createReadStream(path, { highWaterMark: 1024 ** 2 });
    const answer = (await this.#call("POST", "/images/load", signal, { content }).catch(unusable)) as {
      readonly Names?: readonly string[];
    };
    const [name] = answer.Names ?? [];
    if (name === undefined) throw new Fault("invalid", "the archive holds no image", { reason: "NO_IMAGE" });
    const query = { repo: repository, tag: sha256 };
    await this.#call("POST", `/images/${encodeURIComponent(name)}/tag`, signal, { query });
    return reference;
  }

  async refusesDevice(device: string, signal: AbortSignal): Promise<string | undefined> {
    const root = await this.#probeRoot();
    return await findRefusal(await this.#service.client(signal), root, device, signal);
  }

  async list(signal: AbortSignal): Promise<readonly FoundContainer[]> {
    const query = { all: "true" };
    const found = (await this.#call("GET", "/containers/json", signal, { query })) as
      readonly Listed[] | null;
    return (found ?? []).map(fromListed);
  }

  async find(id: string, signal: AbortSignal): Promise<FoundContainer | undefined> {
    try {
      return fromInspected((await this.#call("GET", `/containers/${id}/json`, signal)) as Inspected);
    } catch (thrown) {
      if (isFault(thrown, "notFound")) return undefined;
      throw thrown;
    }
  }

  async create(id: string, shape: string, setup: ContainerSetup, signal: AbortSignal): Promise<void> {
    await this.#call("POST", "/containers/create", signal, { body: toPodmanSpec(id, shape, setup) });
  }

  async start(id: string, signal: AbortSignal): Promise<void> {
    try {
      await this.#call("POST", `/containers/${id}/start`, signal);
    } catch (thrown) {
      // It is podman that could not be understood, or the container that cannot be run: the owner must mend that.
      if (!isFault(thrown, "internal")) throw thrown;
      throw new Fault(
        "invalid",
        thrown.message.replace("podman did not do it", "the container does not start"),
        {
          reason: "CONTAINER_START_FAILED",
          cause: thrown,
        },
      );
    }
  }

  async stop(id: string, timeoutSeconds: number, signal: AbortSignal): Promise<void> {
    await this.#call("POST", `/containers/${id}/stop`, signal, {
      query: { timeout: String(timeoutSeconds) },
    });
  }

  async kill(id: string, signal: AbortSignal): Promise<void> {
    await this.#call("POST", `/containers/${id}/kill`, signal, { query: { signal: "KILL" } });
  }

  async remove(id: string, signal: AbortSignal): Promise<void> {
    const query = { force: "true", timeout: "0", ignore: "true", v: "true" };
    await this.#call("DELETE", `/containers/${id}`, signal, { query }).catch((thrown: unknown) => {
      if (!isFault(thrown, "notFound")) throw thrown;
    });
  }

  async isHealthy(id: string, signal: AbortSignal): Promise<boolean> {
    const answer = (await this.#call("GET", `/containers/${id}/healthcheck`, signal)) as Checked;
    return answer.Status === "healthy";
  }

  async usage(id: string, signal: AbortSignal): Promise<ContainerUsage | undefined> {
    const query = { stream: "false", containers: id };
    try {
      const { Stats } = (await this.#call("GET", "/containers/stats", signal, { query })) as Measured;
      return Stats?.[0] && fromStats(Stats[0]);
    } catch (thrown) {
      if (isFault(thrown, "notFound") || isFault(thrown, "conflict")) return undefined;
      throw thrown;
    }
  }

  async *hints(signal: AbortSignal): AsyncGenerator<void> {
    const client = await this.#service.client(signal);
    const filters = JSON.stringify({ event: ["died", "remove"] });
    const events = await client.stream("GET", "/events", { query: { stream: "true", filters }, signal });
    yield;
    for await (const _ of events) yield;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#service[Symbol.asyncDispose]();
  }

  /** An empty folder, for containers that are made for a try. */
  async #probeRoot(): Promise<string> {
    const directory = join(this.#directory, "probe");
    await mkdir(directory, { recursive: true });
    return directory;
  }

  async #call(method: string, path: string, signal: AbortSignal, options: Call = {}): Promise<unknown> {
    const client: PodmanClient = await this.#service.client(signal);
    return await client.call(method, path, { ...options, signal });
  }

  async #has(path: string, signal: AbortSignal): Promise<boolean> {
    try {
      await this.#call("GET", path, signal);
      return true;
    } catch (thrown) {
      if (isFault(thrown, "notFound")) return false;
      throw thrown;
    }
  }
}

interface Listed {
  readonly Names: readonly string[];
  readonly Labels: Readonly<Record<string, string>> | null;
  readonly State: string;
  /** Unix seconds. */
  readonly StartedAt: number;
  readonly ExitCode: number;
}

interface Inspected {
  readonly Name: string;
  readonly Config: { readonly Labels: Readonly<Record<string, string>> | null };
  readonly State: {
    readonly Status: string;
    readonly StartedAt: string;
    /** Of one that its host's end has ended: of the end before, or long ago. */
    readonly FinishedAt: string;
    readonly ExitCode: number;
  };
}

interface Checked {
  readonly Status: string;
}

interface Measured {
  readonly Stats: readonly Stats[] | null;
}

interface Stats {
  readonly CPUNano: number;
  readonly MemUsage: number;
  readonly NetInput: number;
  readonly NetOutput: number;
  readonly BlockInput: number;
  readonly BlockOutput: number;
}

function fromListed({ Names, Labels, State, StartedAt, ExitCode }: Listed): FoundContainer {
  return {
    id: Names[0] ?? "",
    shape: Labels?.[shapeLabel] ?? "",
    state: stateOf(State),
    startedAt: StartedAt > 0 ? new Date(StartedAt * 1000) : undefined,
    exitCode: ExitCode,
    endedAt: undefined, // its times are whole seconds
  };
}

/** What ends at once may have ended before podman writes down when it started. */
const startNotedLateMs = 5_000;

function fromInspected({ Name, Config, State }: Inspected): FoundContainer {
  const [startedAt, endedAt] = [new Date(State.StartedAt), new Date(State.FinishedAt)];
  const state = stateOf(State.Status);
  const isOfThisRun = endedAt.getTime() >= startedAt.getTime() - startNotedLateMs;
  return {
    id: Name,
    shape: Config.Labels?.[shapeLabel] ?? "",
    state,
    startedAt: startedAt.getTime() > 0 ? startedAt : undefined,
    exitCode: State.ExitCode,
    endedAt: isOfThisRun && state === "exited" ? endedAt : undefined,
  };
}

/** What is on its way to its end still runs. */
function stateOf(word: string): FoundContainer["state"] {
  if (["running", "paused", "stopping"].includes(word)) return "running";
  return ["exited", "stopped", "removing"].includes(word) ? "exited" : "created";
}

function fromStats(stats: Stats): ContainerUsage {
  return {
    cpuSeconds: stats.CPUNano / 1e9,
    memoryUsedBytes: BigInt(stats.MemUsage),
    networkInBytes: BigInt(stats.NetInput),
    networkOutBytes: BigInt(stats.NetOutput),
    diskReadBytes: BigInt(stats.BlockInput),
    diskWriteBytes: BigInt(stats.BlockOutput),
  };
}

function unusable(thrown: unknown): never {
  if (!isFault(thrown, "internal") && !isFault(thrown, "invalid")) throw thrown;
  throw new Fault("invalid", "the archive is none that podman can use", {
    reason: "IMAGE_CORRUPT",
    cause: thrown,
  });
}
