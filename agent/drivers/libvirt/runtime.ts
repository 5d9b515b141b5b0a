/**
 * Paths that are the same on every host. A domain's description, and the sockets of a move, name files below one short
 * folder of links; where each host really keeps its machines is its own affair. Being short, they also fit into the 107
 * bytes that the path of a socket may have. The folder is gone after the host has booted and is made again as needed.
 */
import { mkdir, rename, rm, symlink } from "node:fs/promises";
import { join } from "node:path";
import type { LocalImage } from "../driver.ts";
import { hostFault } from "../hypervisor/host-fault.ts";

export interface RuntimeFolder {
  /** Its path for this process. */
  readonly here: string;
  /** Its path for the daemon; another one only when the daemon lives in a mount namespace of its own. */
  readonly there: string;
}

/** Where the system, or the user's session, keeps such things. */
export function findRuntimeFolder(env: Readonly<Record<string, string | undefined>>): RuntimeFolder {
  const base = process.getuid?.() === 0 ? "/run" : (env["XDG_RUNTIME_DIR"] ?? "/run");
  const folder = join(base, "skerry");
  return { here: folder, there: folder };
}

/** As the daemon and QEMU see them. */
export interface DomainPaths {
  readonly rootDisk: string;
  readonly seed: string;
  readonly kernel: string;
  readonly initrd: string;
  readonly serialSocket: string;
  readonly consoleLog: string;
}

/** The paths in a machine's description. Pure. */
export function domainPaths(runtime: RuntimeFolder, id: string): DomainPaths {
  const folder = join(runtime.there, id);
  return {
    rootDisk: join(folder, "root.qcow2"),
    seed: join(folder, "seed.iso"),
    kernel: join(folder, "kernel"),
    initrd: join(folder, "initrd"),
    serialSocket: join(folder, "serial.sock"),
    consoleLog: join(folder, "console.log"),
  };
}

/** Makes the machine's links: from the runtime folder to its own, and from there to its image. */
export async function ensureLinks(
  runtime: RuntimeFolder,
  machine: { readonly id: string; readonly directory: string; readonly image: LocalImage },
): Promise<void> {
  const { id, directory, image } = machine;
  try {
    await mkdir(runtime.here, { recursive: true, mode: 0o711 });
    await link(directory, join(runtime.here, id));
    if (image.type === "kernel") {
      await link(image.kernelPath, join(directory, "kernel"));
      await link(image.initrdPath, join(directory, "initrd"));
    }
  } catch (error) {
    throw hostFault(error, "the machine's links cannot be made");
  }
}

export async function removeLinks(runtime: RuntimeFolder, id: string): Promise<void> {
  await rm(join(runtime.here, id), { force: true });
}

/** Points `path` at `target`, whatever it was before, with no moment in between. */
export async function link(target: string, path: string): Promise<void> {
  const unfinished = `${path}.new`;
  await rm(unfinished, { force: true });
  await symlink(target, unfinished);
  await rename(unfinished, path);
}
