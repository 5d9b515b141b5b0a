/** What a GPU is called, as its driver tells. */
import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";

export interface SystemFolders {
  readonly proc: string;
  readonly sys: string;
}

/** The model behind a device's nodes; empty: the host does not say. */
export async function findGpuModel(
  nodes: readonly string[],
  { proc, sys }: SystemFolders = { proc: "/proc", sys: "/sys" },
): Promise<string> {
  for (const node of nodes) {
    const [, minor] = /^\/dev\/nvidia(\d+)$/.exec(node) ?? [];
    const model = minor === undefined ? "" : await nvidiaModel(join(proc, "driver/nvidia/gpus"), minor);
    if (model !== "") return model;
  }
  const drawn = nodes.find((node) => /^\/dev\/dri\/(card|renderD)\d+$/.test(node));
  return drawn === undefined ? "" : await drawnModel(join(sys, "class/drm", basename(drawn), "device"));
}

async function nvidiaModel(folder: string, minor: string): Promise<string> {
  for (const name of await readdir(folder).catch(() => [])) {
    const text = await readText(join(folder, name, "information"));
    if (/^Device Minor:\s*(\d+)\s*$/m.exec(text)?.[1] !== minor) continue;
    return /^Model:\s*(.+?)\s*$/m.exec(text)?.[1] ?? "";
  }
  return "";
}

async function drawnModel(folder: string): Promise<string> {
  const name = (await readText(join(folder, "product_name"))).trim();
  if (name !== "") return name;
  const [vendor, device] = [await readText(join(folder, "vendor")), await readText(join(folder, "device"))];
  return vendor === "" || device === "" ? "" : `PCI ${hex(vendor)}:${hex(device)}`;
}

const hex = (text: string) => text.trim().replace(/^0x/, "");

/** What is not there tells nothing. */
function readText(path: string): Promise<string> {
  return readFile(path, "utf8").catch(() => "");
}
