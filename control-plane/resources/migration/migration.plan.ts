/** Pure: where an instance may move, what that would carry, and what stands in the way. */
import type { Incarnation, View } from "../../engine/controller.ts";
import type { Amounts, HostSnapshot, PlacementRequest } from "../../scheduler/snapshot.ts";
import type { Image } from "../image/image.resource.ts";
import type { Instance } from "../instance/instance.resource.ts";
import type { Migration, MigrationReceipt, MigrationSpec, MigrationStatus } from "./migration.resource.ts";

/** What kind of move it is in truth: of a machine that is off there is only its disk to move. */
export function moveTypeOf(
  { desired, observed }: Pick<Instance, "desired" | "observed">,
  { type, on_unreachable }: Pick<MigrationSpec, "type" | "on_unreachable">,
): MigrationStatus["type"] {
  if (desired.power === "off" || observed?.state === "stopped") return "cold";
  return type === "live" && on_unreachable === "postcopy" ? "postcopy" : type;
}

/** Of hosts whose guests can run before all of their memory has arrived. */
export const postCopyCapability = "migration.postcopy";

/** What the drivers of both hosts must be able to do, and the reason given when one is not. */
export function moveNeeds(type: MigrationStatus["type"]): {
  readonly capability: string;
  readonly reason: string;
} {
  return type === "postcopy"
    ? { capability: postCopyCapability, reason: "POSTCOPY_UNSUPPORTED" }
    : { capability: "migration", reason: "MOVE_UNSUPPORTED" };
}

/** What a guest sees of its host. */
export interface GuestModel {
  readonly machine_type: string;
  readonly cpu_model: string;
}

/** What the guest was given when it started; where its host does not say, what a new one would get there. */
export function guestModelOf(
  source: HostSnapshot,
  owner: Pick<Incarnation, "observed"> | undefined,
): GuestModel {
  const told = owner?.observed["guest_model"] as GuestModel | undefined;
  return told ?? { machine_type: source.machineTypes[0] ?? "", cpu_model: source.guestCpuModel };
}

/** What is asked of the scheduler. A guest that goes on running keeps its machine and its CPU. */
export function moveRequest(
  {
    references,
    incarnations,
  }: Pick<View<Instance>, "references"> & {
    readonly incarnations: readonly Pick<Incarnation, "hostId">[];
  },
  { desired, refs }: { readonly desired: Omit<MigrationSpec, "instance">; readonly refs: Migration["refs"] },
  type: MigrationStatus["type"],
  { source, model }: { readonly source: HostSnapshot; readonly model: GuestModel },
  amounts: Amounts,
): PlacementRequest {
  const image = references["image"] as Image | undefined;
  const running = type !== "cold";
  return {
    ...amounts,
    host: refs["host"],
    provider: desired.provider ?? undefined,
    region: desired.region ?? undefined,
    architecture: source.architecture,
    imageArchitecture: image?.desired.architecture ?? source.architecture,
    capability: moveNeeds(type).capability,
    cpuBaseline: running ? source.cpuBaseline : undefined,
    machineType: running ? model.machine_type : undefined,
    guestCpuModel: running ? model.cpu_model : undefined,
    // A host that still has a copy gives it up first.
    exclude: new Set([source.id, ...incarnations.map(({ hostId }) => hostId)]),
  };
}

/** What is known beforehand of what would be carried, and over what. */
export interface Expectation {
  readonly memoryBytes: number;
  readonly diskBytes: number;
  /** Written since the target last had the disks, if it has kept them. */
  readonly changedBytes: number | undefined;
  readonly bandwidthLimit: number | null;
  /** How the instance's last move went. */
  readonly last: MigrationReceipt | undefined;
}

/** Shares and rates of a first move, about which nothing is known: a fast codec on mixed memory, and 1 Gbit/s. */
const assumed = { ratio: 0.45, bytesPerSecond: 118e6, downtimeMs: 150 };

/** What a move would carry and how long it would take; `basis` tells how much that is worth. */
export function predictMove(type: MigrationStatus["type"], expectation: Expectation) {
  const { memoryBytes, diskBytes, changedBytes = Infinity, bandwidthLimit, last } = expectation;
  const copied = Math.min(diskBytes, changedBytes);
  const bytes = (type === "cold" ? 0 : memoryBytes) + copied;
  const wire = Math.round(bytes * (last?.compression_ratio ?? assumed.ratio));
  const measured = last && last.duration_ms > 0 ? (last.bytes_sent / last.duration_ms) * 1000 : undefined;
  const rate = Math.min(measured ?? assumed.bytesPerSecond, bandwidthLimit ?? Infinity);
  return {
    bytes_total: bytes,
    disk_kept_bytes: diskBytes - copied,
    bytes_on_wire: wire,
    seconds: Math.ceil(wire / Math.max(1, rate)),
    downtime_ms: type === "cold" ? null : (last?.downtime_ms ?? assumed.downtimeMs),
    basis: last ? ("last migration" as const) : ("assumption" as const),
    risk:
      type === "postcopy"
        ? "if the guest writes faster than the link carries, it runs at the target before all of its memory is there: a source lost then is the guest lost, and it starts again from its disk"
        : null,
  };
}

/** Something that stands in the way, by a name that programs know. */
export interface Blocker {
  readonly code: string;
  readonly message: string;
}

/** In words, what a host says that keeps a machine from moving as it runs. */
const machineBlockers: Readonly<Record<string, string>> = {
  added_memory:
    "memory was added while it ran, which its emulator would not carry over whole; restart it first",
};

/**
 * What the instance's own state has against a move.
 * @param machineBlocker its host's word, if it has one
 */
export function findBlockers(
  resource: Instance,
  source: HostSnapshot | undefined,
  openRequest: string | undefined,
  type: MigrationStatus["type"],
  machineBlocker: unknown,
): Blocker[] {
  const found: Blocker[] = [];
  const block = (code: string, message: string) => found.push({ code, message });
  if (openRequest !== undefined) block("under_way", `migration ${openRequest} of it is under way`);
  else if (!["running", "stopped"].includes(resource.phase)) block("phase", `it is ${resource.phase}`);
  if (resource.desired.adopted) {
    block("adopted", "it was adopted: its description and its files are its host's own, so it stays there");
  }
  if (typeof machineBlocker === "string" && type !== "cold") {
    block(machineBlocker, machineBlockers[machineBlocker] ?? "its host says that it cannot move as it runs");
  }
  if (!source) block("source", "it is on no host");
  else {
    if (!source.online) block("reachability", "its host is not connected");
    const { capability, reason } = moveNeeds(type);
    if (!source.capabilities.includes(capability)) {
      const code = type === "postcopy" ? reason.toLowerCase() : "capability";
      block(code, `its host's driver has no ${capability}`);
    }
  }
  return found;
}
