/** What this host can do for machines, found out once. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { exec } from "#agent/exec.ts";
import type { Logger } from "#kernel/log.ts";
import type { GuestModel } from "../driver.ts";
import { type Acceleration, type KernelImage, proveAcceleration } from "./accel.ts";
import { deriveCpuModel, parseMachineTypes } from "./model.ts";
import type { Platform } from "./platform.ts";

export interface HostAbilities extends Acceleration {
  /** QEMU's. */
  readonly version: string;
  readonly model: GuestModel;
}

export interface HostProbeOptions {
  readonly platform: Platform;
  /** Where the verdict is remembered. */
  readonly stateDirectory: string;
  readonly log: Logger;
  readonly lifetime: AbortSignal;
  readonly probeGuest: ((signal: AbortSignal) => Promise<KernelImage | undefined>) | undefined;
}

/**
 * Gives a function that finds it out at its first call and remembers it. It does not end with the caller who happened
 * to be first; a failure is tried again by whoever asks next.
 */
export function createHostProbe(options: HostProbeOptions): () => Promise<HostAbilities> {
  let abilities: Promise<HostAbilities> | undefined;
  return () => {
    abilities ??= findAbilities(options).catch((error: unknown) => {
      abilities = undefined;
      throw error;
    });
    return abilities;
  };
}

async function findAbilities(options: HostProbeOptions): Promise<HostAbilities> {
  const { platform, stateDirectory, log, lifetime, probeGuest } = options;
  const ask = async (...args: string[]) =>
    (await exec(platform.program, args, { signal: lifetime, timeoutMs: 10_000 })).stdout;
  const [about, machines, cpuInfo] = await Promise.all([
    ask("--version"),
    ask("-machine", "help"),
    readFile("/proc/cpuinfo", "utf8"),
  ]);
  const version = /version (\S+)/.exec(about)?.[1] ?? "unknown";
  const verdict = await proveAcceleration(
    {
      platform,
      qemuVersion: version,
      verdictFile: join(stateDirectory, "acceleration.json"),
      guest: async (signal) => await probeGuest?.(signal),
    },
    lifetime,
  );
  log.info("qemu.acceleration", { version, ...verdict });
  const model = {
    machineTypes: parseMachineTypes(machines, platform.machine),
    cpuModel: deriveCpuModel(verdict.acceleration, { version, cpuInfo }),
  };
  return { version, model, ...verdict };
}
