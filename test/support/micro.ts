/** The built-in guest, as a driver is given it. */
import { join, resolve } from "node:path";
import type { LocalImage } from "#agent/drivers/driver.ts";
import { buildMicro } from "#agent/images/micro/build.ts";
import { silentLogger } from "#kernel/log.ts";

/** Where the guest is. */
export function microDirectory(): string {
  return process.env["SKERRY_MICRO_DIR"] ?? join("node_modules", ".cache", "skerry", "micro");
}

/** Builds the guest, unless that was done before. */
export async function loadMicro(): Promise<LocalImage & { type: "kernel" }> {
  const outDir = microDirectory();
  const signal = AbortSignal.timeout(240_000);
  const manifest = await buildMicro({ outDir, signal, log: silentLogger });
  const pathOf = (role: string) => {
    const file = manifest.files.find((one) => one.role === role);
    if (!file) throw new Error(`the guest has no ${role}`);
    return resolve(outDir, file.path);
  };
  const commandLine = manifest.command_line;
  return { type: "kernel", kernelPath: pathOf("kernel"), initrdPath: pathOf("initrd"), commandLine };
}
