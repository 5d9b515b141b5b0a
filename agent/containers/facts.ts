/** Whether this host runs containers: proved by running one, once for each start of the host. */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { deadline } from "#kernel/retry.ts";
import {
  type ContainerFacts,
  ContainerFactsSchema,
  ContainerGpuSchema,
  type HostFacts,
} from "#gen/skerry/agent/v1/host_pb.js";
import type { ContainerDriver } from "./driver.ts";
import type { GpuReading } from "./gpus.ts";

export interface ContainerFactsOptions {
  readonly driver: Pick<ContainerDriver, "name" | "probe">;
  /** False: the host's owner wants none. */
  readonly wanted: boolean;
  /** Where the verdict is remembered. */
  readonly directory: string;
  readonly bootId: string;
  readonly log: Logger;
}

const probeLimitMs = 60_000;

/** What the control plane is told; what stands in the way is told as well. */
export async function findContainerFacts(
  options: ContainerFactsOptions,
  signal: AbortSignal,
): Promise<ContainerFacts> {
  const { driver, wanted, log } = options;
  if (!wanted) return create(ContainerFactsSchema, { reason: "the host's settings turn them off" });
  try {
    const version = (await readVerdict(options)) ?? (await prove(options, signal));
    return create(ContainerFactsSchema, { engine: driver.name, version });
  } catch (thrown) {
    const fault = toFault(thrown);
    log.warn("containers.unavailable", { fault });
    return create(ContainerFactsSchema, { reason: fault.message });
  }
}

/** Puts them into the host's facts. */
export function noteContainers(facts: HostFacts, containers: ContainerFacts): void {
  facts.containers = containers;
  setCapability(facts, "containers", containers.engine !== "");
}

/** Puts into the facts of a host that runs containers what GPUs they may be given. */
export function noteGpus(facts: HostFacts, { gpus, problems }: GpuReading): void {
  if (!facts.containers) return;
  facts.containers.gpus = gpus.map((gpu) => create(ContainerGpuSchema, gpu));
  facts.containers.gpuProblems = [...problems];
  setCapability(facts, "containers.gpu", gpus.length > 0);
}

function setCapability(facts: HostFacts, name: string, has: boolean): void {
  const others = facts.capabilities.filter((other) => other !== name);
  facts.capabilities = has ? [...others, name] : others;
}

async function prove(
  { driver, directory, bootId }: ContainerFactsOptions,
  signal: AbortSignal,
): Promise<string> {
  using limit = deadline(probeLimitMs, "running a container for a try", signal);
  const { version } = await driver.probe(limit);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await writeFile(verdictPath(directory), JSON.stringify({ bootId, version }));
  return version;
}

async function readVerdict({ directory, bootId }: ContainerFactsOptions): Promise<string | undefined> {
  const text = await readFile(verdictPath(directory), "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "{}";
    throw new Fault("internal", "the host cannot read its records", { cause: error });
  });
  const verdict = JSON.parse(text) as { readonly bootId?: string; readonly version?: string };
  return verdict.bootId === bootId ? verdict.version : undefined;
}

const verdictPath = (directory: string) => join(directory, "verdict.json");
