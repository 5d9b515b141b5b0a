/**
 * What others made on this host, and whether a machine of ours could be the same. Pure. An adopted machine keeps its own
 * description, so what stands in the way is only what an instance cannot tell of, or what ties it to more than its disk.
 */
import type { ForeignMachine } from "../driver.ts";
import type { FoundDomain } from "./library.ts";
import { diskStat, parseStats } from "./metrics.ts";
import { isOurs, readAdopter, readSize, stateOf } from "./observe.ts";
import { type Element, select } from "./xml.ts";

export interface ForeignDisk {
  readonly target: string;
  /** How libvirt reaches it, such as `file`. */
  readonly type: string;
  /** File or block device; empty for anything else. */
  readonly source: string;
  readonly format: string;
}

/** What `virsh domstats --block` printed of each persistent domain, by the domain's name. */
export type DomainStats = ReadonlyMap<string, ReadonlyMap<string, string>>;

const MiB = 1024n ** 2n;
const smallestBytes = 64n * MiB;

/** The disks that the guest may write to, in the order of the description. */
export function readDisks({ description }: FoundDomain): ForeignDisk[] {
  return select(description, "devices", "disk").flatMap((disk) => {
    const { device = "disk", type = "" } = disk.attributes;
    if (device !== "disk" && device !== "lun") return [];
    const first = (tag: string) => select(disk, tag)[0]?.attributes ?? {};
    const { file, dev } = first("source");
    const [target = "", format = "raw"] = [first("target")["dev"], first("driver")["type"]];
    return [{ target, type, source: file ?? dev ?? "", format }];
  });
}

export function describeForeign(found: FoundDomain, all: DomainStats): ForeignMachine {
  const { uuid, name } = found;
  const { vcpus, memoryBytes } = readSize(found);
  const stats = all.get(name);
  const disks = readDisks(found).map(({ target, format }) => ({
    ...{ target, format },
    sizeBytes: stats ? diskStat(stats, target, "capacity") : 0n,
  }));
  const machine = { uuid, name, state: stateOf(found), vcpus, memoryBytes, disks };
  return { ...machine, obstacles: findObstacles(found, machine, stats !== undefined) };
}

/** Every reason why the domain cannot become a machine of ours. */
function findObstacles(
  found: FoundDomain,
  { state, memoryBytes, disks }: Omit<ForeignMachine, "obstacles">,
  isPersistent: boolean,
): ForeignMachine["obstacles"] {
  const { description } = found;
  const devices = (tag: string) => select(description, "devices", tag).length;
  const adopter = readAdopter(found);
  const types = readDisks(found).map(({ type }) => type);
  const checks: readonly (readonly [code: string, stands: boolean, message: string])[] = [
    ["adopted", adopter !== undefined && !isOurs(found), `it is adopted already, as ${String(adopter)}`],
    ["transient", !isPersistent, "it is transient: libvirt forgets it when it is off"],
    ["paused", state === "paused", "it is paused"],
    ["passthrough", devices("hostdev") > 0, "a device of the host is passed through to it"],
    ["shared_folders", devices("filesystem") > 0, "it shares folders with the host"],
    ["nics", devices("interface") > 1, `it has ${String(devices("interface"))} network cards`],
    ["disks", disks.length !== 1, `it has ${String(disks.length)} disks`],
    ["disk_type", types.some(isElsewhere), "its disk is neither a file nor a device of the host"],
    ["disk_size", disks.some(isTooSmall), "its disk has less than 64 MiB, or cannot be opened"],
    ["memory", memoryBytes < smallestBytes, "it has less than 64 MiB of memory"],
    ["hypervisor", !isQemu(description), "it does not run in QEMU"],
  ];
  return checks.flatMap(([code, stands, message]) => (stands ? [{ code, message }] : []));
}

function isElsewhere(type: string): boolean {
  return type !== "file" && type !== "block";
}

function isTooSmall({ sizeBytes }: ForeignMachine["disks"][number]): boolean {
  return sizeBytes < smallestBytes;
}

function isQemu({ attributes }: Element): boolean {
  return attributes["type"] === "kvm" || attributes["type"] === "qemu";
}

/** Splits what `virsh domstats` printed by domain. */
export function parseDomainStats(text: string): DomainStats {
  const parts = text.split(/^Domain: /m).slice(1);
  return new Map(
    parts.map((part) => {
      const [first = "", ...rest] = part.split("\n");
      return [first.trim().replace(/^'|'$/g, ""), parseStats(rest.join("\n"))];
    }),
  );
}
