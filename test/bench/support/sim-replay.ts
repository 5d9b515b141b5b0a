/** The same events once more, on paper: what they would have cost under another policy, or did where they were placed. */
import { HostClasses } from "#cp/scheduler/host-classes.ts";
import { Placer } from "#cp/scheduler/placer.ts";
import { defaultPolicy } from "#cp/scheduler/default-policy.ts";
import type { Policy } from "#cp/scheduler/policy.ts";
import { perHour } from "#cp/scheduler/prices.ts";
import { cost } from "#cp/scheduler/scorers/cost.ts";
import type { HostSnapshot, PlacementRequest } from "#cp/scheduler/snapshot.ts";
import { randomFrom } from "./fleet.ts";
import type { SimEvent } from "./sim-plan.ts";

export interface Replay {
  /** The sum of what each machine cost per hour when it was placed. */
  readonly costPerHour: number;
  readonly placed: number;
  /** How long each choice took, in milliseconds. */
  readonly durations: readonly number[];
}

/** Which host, if any. */
export type Choose = (hosts: HostClasses, name: string, request: PlacementRequest) => string | undefined;

const { filters } = defaultPolicy();
const cheapestFit: Policy = { filters, scorers: [{ scorer: cost(), weight: 1 }] };
export const policies = { skerry: defaultPolicy(), cheapestFit };
/** When so many hosts that were drawn will not do, all are looked at. */
const mostDraws = 1_000;

/** A host that will do, as chance has it; the same for a seed. */
export function replayRandom(
  hosts: readonly HostSnapshot[],
  events: readonly SimEvent[],
  seed: number,
): Replay {
  const random = randomFrom(seed);
  const ids = hosts.map(({ id }) => id);
  return replay(hosts, events, (all, _name, request) => {
    const checks = filters.flatMap((filter) => filter.fit(request) ?? []);
    const fits = (id: string) => {
      const host = all.get(id);
      return host !== undefined && checks.every((check) => check.miss(host) === 0);
    };
    for (let draw = 0; draw < mostDraws; draw++) {
      const id = ids[Math.floor(random() * ids.length)];
      if (id !== undefined && fits(id)) return id;
    }
    return ids.find(fits);
  });
}

export function replayPolicy(
  hosts: readonly HostSnapshot[],
  events: readonly SimEvent[],
  policy: Policy,
): Replay {
  let placer: Placer | undefined;
  return replay(hosts, events, (all, name, request) => {
    placer ??= new Placer(all, policy);
    return placer.choose(request, name)[0]?.id;
  });
}

export function replay(
  snapshot: readonly HostSnapshot[],
  events: readonly SimEvent[],
  choose: Choose,
): Replay {
  const hosts = new HostClasses(snapshot);
  const placed = new Map<string, { readonly hostId: string; readonly request: PlacementRequest }>();
  const durations: number[] = [];
  let [costPerHour, count] = [0, 0];
  const load = (hostId: string, request: PlacementRequest, sign: 1 | -1): HostSnapshot | undefined => {
    const host = hosts.get(hostId);
    if (host) hosts.set(withLoad(host, request, sign));
    return host;
  };
  for (const event of events) {
    if (event.type === "reprice") {
      const { provider, region, prices } = event.line;
      for (const host of [...hosts.hosts()]) {
        if (host.provider === provider && host.region === region) hosts.set({ ...host, prices });
      }
    } else if (event.type === "depart") {
      const left = placed.get(event.name);
      if (left) load(left.hostId, left.request, -1);
      placed.delete(event.name);
    } else {
      const { name, request } = event;
      const started = performance.now();
      const hostId = choose(hosts, name, request);
      durations.push(performance.now() - started);
      const host = hostId === undefined ? undefined : load(hostId, request, 1);
      if (!host?.prices) continue;
      placed.set(name, { hostId: host.id, request });
      costPerHour += perHour(host.prices, request);
      count++;
    }
  }
  return { costPerHour, placed: count, durations };
}

function withLoad(host: HostSnapshot, request: PlacementRequest, sign: 1 | -1): HostSnapshot {
  const { used } = host;
  return {
    ...host,
    used: {
      ...used,
      cpus: used.cpus + sign * request.cpus,
      memoryBytes: used.memoryBytes + sign * request.memoryBytes,
      diskBytes: used.diskBytes + sign * request.diskBytes,
    },
  };
}
