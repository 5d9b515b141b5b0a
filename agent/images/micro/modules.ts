/**
 * Chooses the kernel modules that the guest needs. Packages carry no dependency list (it is made when
 * they are installed), but every module names what it depends on.
 */

/** What the guest uses, in the order it wants them; dependencies come before. */
export const wantedModules = [
  "virtio_pci",
  "virtio_blk",
  "virtio_net",
  "isofs",
  "button",
  "evdev",
  "virtio_rng",
  "virtio_mem",
  "virtio_balloon",
] as const;

/** The name by which the kernel knows the module in this file: dashes are underscores, suffixes gone. */
export function moduleName(path: string): string {
  const file = path.slice(path.lastIndexOf("/") + 1);
  return file.replace(/\.ko(\.\w+)?$/, "").replaceAll("-", "_");
}

/** Names of the modules that this one (uncompressed) says it depends on. */
export function moduleDependencies(content: Buffer): string[] {
  const marker = "\0depends=";
  const at = content.indexOf(marker);
  if (at < 0) return [];
  const from = at + marker.length;
  const names = content.toString("latin1", from, content.indexOf(0, from));
  return names
    .split(",")
    .filter((name) => name !== "")
    .map(moduleName);
}

/**
 * Orders the wanted modules and their dependencies so that each comes after what it needs.
 * @param read the module's content; undefined when there is no such file, as for what is built in
 */
export async function orderModules(
  wanted: readonly string[],
  read: (name: string) => Promise<Buffer | undefined>,
): Promise<Map<string, Buffer>> {
  const ordered = new Map<string, Buffer>();
  const visited = new Set<string>();
  const visit = async (name: string): Promise<void> => {
    if (visited.has(name)) return;
    visited.add(name);
    const content = await read(name);
    if (!content) return;
    for (const dependency of moduleDependencies(content)) await visit(dependency);
    ordered.set(name, content);
  };
  for (const name of wanted) await visit(name);
  return ordered;
}
