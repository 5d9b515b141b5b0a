/**
 * Two hosts of a benchmark's own: network namespaces joined by one link that is shaped at both ends, each with
 * a second, unshaped line to this computer, where the control plane is. All is gone when the benchmark has ended;
 * what a killed one left is swept away by the next.
 */
import { execFile } from "node:child_process";
import { access } from "node:fs/promises";
import { networkInterfaces } from "node:os";
import { promisify } from "node:util";
import type { Argv } from "#cp/local/child.ts";
import { Fault } from "#kernel/fault.ts";
import type { BenchContext } from "./benchmark.ts";

const run = promisify(execFile);

export const linkRates = ["100mbit", "1gbit", "none"] as const;
export type LinkRate = (typeof linkRates)[number];

export interface BenchHost {
  readonly name: "site-a" | "site-b";
  /** Its address on the link, and that of this computer on its other line. */
  readonly linkAddress: string;
  readonly controlPlaneAddress: string;
  /** The same program, on this host. */
  on(argv: Argv): Argv;
  /** Bytes that have passed its end of the link, both ways. */
  countLinkBytes(): Promise<number>;
  /** The same of its line to the control plane. */
  countControlBytes(): Promise<number>;
}

export interface BenchNetwork {
  readonly source: BenchHost;
  readonly destination: BenchHost;
}

/** From the range that is set aside for benchmarks of networks. */
const range = /^198\.1[89]\./;
const sites = [
  { name: "site-a", link: "198.18.8.1", control: "198.18.0.2", controlPlane: "198.18.0.1" },
  { name: "site-b", link: "198.18.8.2", control: "198.18.0.6", controlPlane: "198.18.0.5" },
] as const;
type Site = (typeof sites)[number];

const linkDevice = "link0";
const controlDevice = "control0";
const prefix = "skb";

/** Builds hosts and link. Throws `denied` ROOT_NEEDED for whoever may not. */
export async function openNetwork(bench: BenchContext, rate: LinkRate): Promise<BenchNetwork> {
  if (process.getuid?.() !== 0) {
    throw new Fault("denied", "network namespaces need root", { reason: "ROOT_NEEDED" });
  }
  await sweep();
  requireFreeRange();
  const spaces = sites.map(({ name }) => `${prefix}-${String(process.pid)}-${name}`);
  const [first = "", second = ""] = spaces;
  for (const space of spaces) {
    await ip("netns", "add", space);
    bench.teardown(() => ip("netns", "delete", space));
  }
  const other = ["peer", "name", linkDevice, "netns", second];
  await ip("link", "add", linkDevice, "netns", first, "type", "veth", ...other);
  for (const [index, site] of sites.entries()) {
    const here = `${prefix}${String(process.pid)}${String(index)}`;
    const space = spaces[index] ?? "";
    await ip("link", "add", here, "type", "veth", "peer", "name", controlDevice, "netns", space);
    // Its address would lead the next benchmark astray until the kernel has done with the namespace.
    bench.teardown(() => ip("link", "delete", here));
    await connect(site, here, space, rate);
  }
  const [source, destination] = sites.map((site, index) => hostOf(site, spaces[index] ?? ""));
  if (!source || !destination) throw new RangeError("there are two sites");
  return { source, destination };
}

async function connect(site: Site, here: string, space: string, rate: LinkRate): Promise<void> {
  await ip("address", "add", `${site.controlPlane}/30`, "dev", here);
  await ip("link", "set", here, "up");
  await ip("-n", space, "address", "add", `${site.control}/30`, "dev", controlDevice);
  await ip("-n", space, "address", "add", `${site.link}/24`, "dev", linkDevice);
  for (const device of ["lo", linkDevice, controlDevice]) await ip("-n", space, "link", "set", device, "up");
  if (rate === "none") return;
  // A burst of several of the kernel's largest packets, so that the rate is reached; a queue of 50 ms.
  const shape = ["tbf", "rate", rate, "burst", "256kb", "latency", "50ms"];
  await run("tc", ["-n", space, "qdisc", "add", "dev", linkDevice, "root", ...shape]);
}

function hostOf(site: Site, space: string): BenchHost {
  return {
    name: site.name,
    linkAddress: site.link,
    controlPlaneAddress: site.controlPlane,
    on: (argv) => ["nsenter", `--net=/run/netns/${space}`, "--", ...argv],
    countLinkBytes: () => countBytes(space, linkDevice),
    countControlBytes: () => countBytes(space, controlDevice),
  };
}

interface LinkStatistics {
  readonly stats64: { readonly rx: { readonly bytes: number }; readonly tx: { readonly bytes: number } };
}

async function countBytes(space: string, device: string): Promise<number> {
  const { stdout } = await run("ip", ["-n", space, "-s", "-j", "link", "show", "dev", device]);
  const [link] = JSON.parse(stdout) as readonly LinkStatistics[];
  if (!link) throw new Fault("internal", `there is no ${device} in ${space}`);
  return link.stats64.rx.bytes + link.stats64.tx.bytes;
}

/** A computer that lives in the range would lose its own network to ours. */
function requireFreeRange(): void {
  const taken = Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .find(({ address }) => range.test(address));
  if (!taken) return;
  throw new Fault("conflict", `this computer has the address ${taken.address}, from the range used here`, {
    reason: "ADDRESS_RANGE_TAKEN",
  });
}

/** Takes away the lines and namespaces of benchmarks whose process is gone. */
async function sweep(): Promise<void> {
  for (const name of await listNames("link", "show", "type", "veth")) {
    const pid = new RegExp(`^${prefix}(\\d+)[01]$`).exec(name)?.[1];
    if (pid !== undefined && !(await runs(pid))) await ip("link", "delete", name);
  }
  for (const name of await listNames("netns", "list")) {
    const pid = new RegExp(`^${prefix}-(\\d+)-`).exec(name)?.[1];
    if (pid !== undefined && !(await runs(pid))) await ip("netns", "delete", name);
  }
}

async function listNames(...args: readonly string[]): Promise<string[]> {
  const { stdout } = await run("ip", ["-j", ...args]);
  const found = JSON.parse(stdout === "" ? "[]" : stdout) as readonly {
    readonly name?: string;
    readonly ifname?: string;
  }[];
  return found.map(({ name, ifname }) => name ?? ifname ?? "");
}

async function runs(pid: string): Promise<boolean> {
  return access(`/proc/${pid}`).then(
    () => true,
    () => false,
  );
}

async function ip(...args: readonly string[]): Promise<void> {
  await run("ip", args);
}
