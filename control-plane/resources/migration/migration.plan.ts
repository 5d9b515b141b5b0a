/** Pure: where an instance may move, what that would carry, and what stands in the way. */
import type { Incarnation, View } from "../../engine/controller.ts";
import type { Amounts, HostSnapshot, PlacementRequest } from "../../scheduler/snapshot.ts";
import type { Image } from "../image/image.resource.ts";
import type { Instance } from "../instance/instance.resource.ts";
import type { Migration, MigrationSpec, MigrationStatus } from "./migration.resource.ts";

/** What kind of move it is in truth: of a machine that is off there is only its disk to move. */
export function moveTypeOf(
  { desired, observed }: Pick<Instance, "desired" | "observed">,
  { type }: Pick<MigrationSpec, "type">,
): MigrationStatus["type"] {
  return desired.power === "off" || observed?.state === "stopped" ? "cold" : type;
}

/** What is asked of the scheduler. A guest that goes on running keeps its machine and its CPU. */
export function moveRequest(
  {
    references,
    incarnations,
  }: Pick<View<Instance>, "references"> & {
    readonly incarnations: readonly Pick<Incarnation, "hostId">[];
  },
  { desired, refs }: Pick<Migration, "desired" | "refs">,
  type: MigrationStatus["type"],
  source: HostSnapshot,
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
    capability: "migration",
    cpuBaseline: running ? source.cpuBaseline : undefined,
    machineType: running ? source.machineTypes[0] : undefined,
    guestCpuModel: running ? source.guestCpuModel : undefined,
    // A host that still has a copy gives it up first.
    exclude: new Set([source.id, ...incarnations.map(({ hostId }) => hostId)]),
  };
}
