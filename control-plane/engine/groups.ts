/** Where the others of an instance's groups are, as the scheduler asks for it. */
import type { HostSnapshot, PlacementRequest } from "../scheduler/snapshot.ts";
import { zoneOf } from "../scheduler/snapshot.ts";
import type { Queryable } from "../store/database.ts";

export const groupRules = ["same-host", "different-hosts", "spread-zones"] as const;
export type GroupRule = (typeof groupRules)[number];

export interface GroupWish {
  readonly resourceId: string;
  readonly project: string;
  readonly groups: readonly { readonly name: string; readonly rule: GroupRule }[];
}

interface Promised {
  readonly host_id: string;
  readonly groups: readonly string[];
  readonly apart: readonly string[];
}

/** Reads promises rather than instances: who has been promised room is there, whether it runs yet or not. */
export async function placeInGroups(
  database: Queryable,
  { resourceId, project, groups }: GroupWish,
  hostOf: (id: string) => HostSnapshot | undefined,
): Promise<Pick<PlacementRequest, "together" | "apart" | "inZones">> {
  const keysOf = (rule?: GroupRule) =>
    groups
      .filter((group) => rule === undefined || group.rule === rule)
      .map(({ name }) => `${project}/${name}`);
  const all = keysOf();
  const others = await database.query<Promised>(
    "select host_id, groups, apart from reservation where groups && $1 and resource_id <> $2 order by host_id",
    [all, resourceId],
    "group_members",
  );
  const hostsOf = (members: readonly Promised[]) => [...new Set(members.map(({ host_id }) => host_id))];
  const shares = (keys: readonly string[], wanted: readonly string[]) =>
    keys.some((key) => wanted.includes(key));
  const zones = new Map<string, number>();
  const spread = keysOf("spread-zones");
  for (const other of others) {
    const host = shares(other.groups, spread) ? hostOf(other.host_id) : undefined;
    if (host) zones.set(zoneOf(host), (zones.get(zoneOf(host)) ?? 0) + 1);
  }
  const [same, different] = [keysOf("same-host"), keysOf("different-hosts")];
  return {
    together: hostsOf(others.filter((other) => shares(other.groups, same))),
    apart: hostsOf(others.filter((other) => shares(other.groups, different) || shares(other.apart, all))),
    ...(spread.length > 0 && { inZones: [...zones].sort(([a], [b]) => (a < b ? -1 : 1)) }),
  };
}
