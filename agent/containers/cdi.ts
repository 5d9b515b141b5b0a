/**
 * The Container Device Interface: files in which vendors' tools say what a container needs to be given a device. Only
 * what is needed to count devices is read; the container engine reads the rest, by the device's name.
 */
import { createHash } from "node:crypto";
import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";

export interface CdiDevice {
  /** `vendor/class=name`, as container engines know it. */
  readonly name: string;
  /** Such as nvidia.com. */
  readonly vendor: string;
  /** What the spec says of it; empty: nothing. */
  readonly model: string;
  /** The host's device nodes that are its own. */
  readonly nodes: readonly string[];
  /** Changes with the file that it is in. */
  readonly digest: string;
}

export interface CdiReading {
  /** Each for itself: no two of them are the same device. */
  readonly devices: readonly CdiDevice[];
  /** In words: files that cannot be used, and devices that are not there. */
  readonly problems: readonly string[];
}

const mostBytes = 4 * 1024 * 1024;
const kindPattern =
  /^([A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?)\/([A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?)$/;
const namePattern = /^[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?$/;
/** What tools call all devices of a kind at once. */
const allOfThem = "all";

/**
 * The devices of a class, such as `gpu`, that the folders' files name and the host has. A folder comes before those
 * that are named before it; two files of one folder must not name the same device.
 */
export async function readCdiDevices(folders: readonly string[], deviceClass: string): Promise<CdiReading> {
  const found = new Map<string, CdiDevice>();
  const problems: string[] = [];
  for (const folder of folders) {
    const here = new Map<string, CdiDevice>();
    for (const file of await listSpecs(folder)) {
      try {
        for (const device of await readSpec(join(folder, file), deviceClass)) {
          if (here.has(device.name))
            problems.push(`${device.name} is in two files; the engine takes neither`);
          here.set(device.name, here.has(device.name) ? { ...device, digest: "" } : device);
        }
      } catch (thrown) {
        problems.push(`${file}: ${(thrown as Error).message}`);
      }
    }
    for (const [name, device] of here) found.set(name, device);
  }
  const usable = [...found.values()].filter(({ digest }) => digest !== "");
  const devices = await Promise.all(distinct(usable).map((device) => present(device, problems)));
  return {
    devices: devices.filter((device) => device !== undefined),
    problems: [...new Set(problems)].sort(),
  };
}

/**
 * Those that are devices of their own, of devices of several kinds. A name may stand for several (`all`), and one
 * device may have several names (its number, its serial number): whoever has the same nodes, or more, is no other device.
 */
export function distinct(devices: readonly CdiDevice[]): readonly CdiDevice[] {
  const isAll = ({ name }: CdiDevice) => name.endsWith(`=${allOfThem}`);
  const inOrder = [...devices].sort((a, b) => Number(isAll(a)) - Number(isAll(b)));
  return inOrder.filter((device, index) => {
    const others = inOrder.filter((other) => other !== device && kindOf(other) === kindOf(device));
    if (isAll(device) && others.length > 0) return false;
    return !others.some((other) => {
      if (other.nodes.length === 0 || !other.nodes.every((node) => device.nodes.includes(node))) return false;
      return other.nodes.length < device.nodes.length || inOrder.indexOf(other) < index;
    });
  });
}

const kindOf = ({ name }: CdiDevice) => name.slice(0, name.indexOf("="));

async function listSpecs(folder: string): Promise<readonly string[]> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return [];
    throw error;
  });
  return names.filter((name) => /\.(json|yaml)$/.test(name)).sort();
}

async function readSpec(path: string, deviceClass: string): Promise<readonly CdiDevice[]> {
  const { size } = await stat(path);
  if (size > mostBytes) throw new Error("it is too large");
  const text = await readFile(path, "utf8");
  const digest = createHash("sha256").update(text).digest("hex").slice(0, 16);
  return parseCdiSpec(await parseText(path, text), deviceClass).map((device) => ({ ...device, digest }));
}

async function parseText(path: string, text: string): Promise<unknown> {
  if (path.endsWith(".json")) return JSON.parse(text) as unknown;
  // Loaded here and not at start: most hosts have no such file.
  const { parse } = await import("yaml");
  return parse(text) as unknown;
}

/** The devices of a class in a spec. Throws what is wrong with the spec, which is used whole or not at all. */
export function parseCdiSpec(spec: unknown, deviceClass: string): readonly Omit<CdiDevice, "digest">[] {
  const { cdiVersion, kind, devices, annotations } = asObject(spec, "it");
  if (typeof cdiVersion !== "string") throw new Error("it has no cdiVersion");
  const [, vendor, found] = (typeof kind === "string" && kindPattern.exec(kind)) || [];
  if (vendor === undefined) throw new Error("its kind must be vendor/class");
  if (!Array.isArray(devices)) throw new Error("it has no list of devices");
  const parsed = devices.map((device: unknown) => {
    const { name, containerEdits, ...own } = asObject(device, "a device");
    if (typeof name !== "string" || !namePattern.test(name)) throw new Error("a device has no name");
    return {
      name: `${kind as string}=${name}`,
      vendor,
      model: modelIn(own["annotations"]) || modelIn(annotations),
      nodes: nodesOf(containerEdits, name),
    };
  });
  if (new Set(parsed.map(({ name }) => name)).size < parsed.length)
    throw new Error("two devices have one name");
  return found === deviceClass ? parsed : [];
}

function nodesOf(edits: unknown, name: string): readonly string[] {
  const { deviceNodes = [] } = asObject(edits, `containerEdits of ${name}`);
  if (!Array.isArray(deviceNodes)) throw new Error(`deviceNodes of ${name} must be a list`);
  const nodes = deviceNodes.map((node: unknown) => {
    const { path, hostPath = path } = asObject(node, `a device node of ${name}`);
    if (typeof hostPath !== "string") throw new Error(`a device node of ${name} has no path`);
    return hostPath;
  });
  return [...new Set(nodes)];
}

/** Vendors may write down what they like; some write the model. */
function modelIn(annotations: unknown): string {
  if (typeof annotations !== "object" || annotations === null) return "";
  const [, model] = Object.entries(annotations).find(([key]) => /(^|[./])(model|product)$/.test(key)) ?? [];
  return typeof model === "string" ? model.slice(0, 63) : "";
}

function asObject(value: unknown, what: string): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return { ...value };
  throw new Error(`${what} must be an object`);
}

async function present(device: CdiDevice, problems: string[]): Promise<CdiDevice | undefined> {
  for (const node of device.nodes) {
    const there = await stat(node).then(
      () => true,
      () => false,
    );
    if (there) continue;
    problems.push(`${device.name}: the host has no ${node}`);
    return undefined;
  }
  return device;
}
