/** What this host is. Found out once per start; the driver proves what can be proved. */
import { readFile, statfs } from "node:fs/promises";
import os from "node:os";
import { create } from "@bufbuild/protobuf";
import {
  type Capacity,
  CapacitySchema,
  type HostFacts,
  HostFactsSchema,
} from "#gen/skerry/agent/v1/host_pb.js";
import type { MachineDriver } from "../drivers/driver.ts";
import { deriveCpuBaseline } from "./cpu-baseline.ts";

/** The computer itself, as its system tells. */
export interface Hardware {
  readonly operatingSystem: string;
  readonly cpuModel: string;
  readonly cpus: number;
  readonly memoryBytes: bigint;
  readonly diskBytes: bigint;
}

export interface FactsOptions {
  readonly driver: MachineDriver;
  /** The folder whose file system machines live on. */
  readonly directory: string;
  /** How much of the host machines may have, 0 to 1. */
  readonly share: number;
  readonly agentVersion: string;
  /** Whoever simulates hosts by the thousand says what each is. */
  readonly readHardware?: typeof readHardware;
}

/** @param directory the folder whose file system machines live on */
export async function readHardware(directory: string): Promise<Hardware> {
  // Loaded here and not at start: it is large, and the agent may already be recovering machines.
  const { default: si } = await import("systeminformation");
  const [system, cpu, disk] = await Promise.all([si.osInfo(), si.cpu(), statfs(directory, { bigint: true })]);
  return {
    operatingSystem: `${system.distro} ${system.release}`.trim(),
    cpuModel: `${cpu.manufacturer} ${cpu.brand}`.trim(),
    cpus: os.cpus().length,
    memoryBytes: BigInt(os.totalmem()),
    diskBytes: disk.blocks * disk.bsize,
  };
}

/** Everything but the listen address, which is known when the port is open. */
export async function findHostFacts(options: FactsOptions, signal: AbortSignal): Promise<HostFacts> {
  const { driver, directory, share, agentVersion } = options;
  const [hardware, found, cpuinfo, bootId] = await Promise.all([
    (options.readHardware ?? readHardware)(directory),
    driver.probe(signal),
    readFile("/proc/cpuinfo", "utf8"),
    readFile("/proc/sys/kernel/random/boot_id", "utf8"),
  ]);
  const model = await driver.liveMigration?.guestModel();
  const architecture = os.machine() === "arm64" ? "aarch64" : os.machine();
  return create(HostFactsSchema, {
    hostname: os.hostname(),
    architecture,
    operatingSystem: hardware.operatingSystem,
    kernel: os.release(),
    agentVersion,
    cpuModel: hardware.cpuModel,
    cpuBaseline: deriveCpuBaseline(architecture, cpuinfo),
    capacity: deriveCapacity(hardware, share),
    driver: driver.name,
    driverVersion: found.version,
    acceleration: found.acceleration,
    accelerationReason: found.accelerationReason,
    // Of the agent itself: it stops what is bound to the host's lease when that ends.
    capabilities: [
      "lease",
      ...found.capabilities,
      ...(driver.liveMigration?.postCopy ? ["migration.postcopy"] : []),
    ],
    bootId: bootId.trim(),
    machineTypes: [...(model?.machineTypes ?? [])],
    guestCpuModel: model?.cpuModel ?? "",
  });
}

/** The part of the host that machines may have: whole CPUs and mebibytes, at least one CPU. */
export function deriveCapacity(
  whole: { readonly cpus: number; readonly memoryBytes: bigint; readonly diskBytes: bigint },
  share: number,
): Capacity {
  const part = (bytes: bigint) => BigInt(Math.floor((Number(bytes) * share) / 2 ** 20)) * 2n ** 20n;
  return create(CapacitySchema, {
    cpus: Math.max(1, Math.floor(whole.cpus * share)),
    memoryBytes: part(whole.memoryBytes),
    diskBytes: part(whole.diskBytes),
  });
}
