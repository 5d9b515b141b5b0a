/** The guest that is booted to prove acceleration, found where `micro` was built. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Fault } from "#kernel/fault.ts";
import type { LocalImage } from "../drivers/driver.ts";

type KernelImage = LocalImage & { readonly type: "kernel" };

interface Manifest {
  readonly command_line: string;
  readonly files: readonly { readonly role: string; readonly path: string }[];
}

/** Undefined when no folder was named: then nothing is proved. Throws `invalid` for a folder that is not micro's. */
export async function findProbeGuest(directory: string | undefined): Promise<KernelImage | undefined> {
  if (directory === undefined) return undefined;
  try {
    const { command_line, files } = JSON.parse(
      await readFile(join(directory, "manifest.json"), "utf8"),
    ) as Manifest;
    const pathOf = (role: string) => {
      const path = files.find((file) => file.role === role)?.path;
      if (path === undefined) throw new Error(`it names no ${role}`);
      return join(directory, path);
    };
    const [kernelPath, initrdPath] = [pathOf("kernel"), pathOf("initrd")];
    return { type: "kernel", kernelPath, initrdPath, commandLine: command_line };
  } catch (cause) {
    throw new Fault("invalid", "the guest that proves acceleration cannot be read", {
      reason: "PROBE_GUEST_INVALID",
      cause,
    });
  }
}
