/** Providers as their hosts make them up, and which of them suits a request best. */
import type { Fleet } from "../engine/fleet.ts";
import { advise, whyNowhere, type SiteAdvice, type Wish } from "../scheduler/advise.ts";
import type { Policy } from "../scheduler/policy.ts";
import type { HostSnapshot, HourlyPrices } from "../scheduler/snapshot.ts";
import { invalidField } from "./validation.ts";

export interface Provider {
  readonly name: string;
  readonly regions: readonly string[];
  /** A host of it takes new instances now. */
  readonly available: boolean;
  readonly totalCpus: number;
  readonly availableCpus: number;
  readonly totalMemoryBytes: number;
  readonly availableMemoryBytes: number;
  /** The lowest of its hosts' prices; undefined when none is known. */
  readonly prices: HourlyPrices | undefined;
}

export interface Advice {
  /** Best first. */
  readonly sites: readonly SiteAdvice[];
  /** Why there are none. */
  readonly why: string;
}

export class Providers {
  readonly #fleet: Fleet;
  readonly #policy: Policy;

  constructor({ fleet, policy }: { readonly fleet: Fleet; readonly policy: Policy }) {
    this.#fleet = fleet;
    this.#policy = policy;
  }

  async list(): Promise<readonly Provider[]> {
    const hosts = await this.#fleet.hosts();
    const names = [...new Set(hosts.map(({ provider }) => provider))].sort();
    return names.map((name) =>
      toProvider(
        name,
        hosts.filter(({ provider }) => provider === name),
      ),
    );
  }

  /** Reserves nothing. Throws `invalid` for providers, regions and countries that there are not. */
  async advise(wish: Wish): Promise<Advice> {
    const hosts = await this.#fleet.hosts();
    checkKnown(
      "constraints.providers",
      wish.providers,
      hosts.map(({ provider }) => provider),
    );
    checkKnown(
      "constraints.regions",
      wish.regions,
      hosts.map(({ region }) => region),
    );
    checkKnown(
      "constraints.countries",
      wish.countries,
      hosts.flatMap(({ country }) => country ?? []),
    );
    const sites = advise(hosts, wish, this.#policy);
    return { sites, why: sites.length > 0 ? "" : whyNowhere(hosts, wish, this.#policy) };
  }
}

function toProvider(name: string, hosts: readonly HostSnapshot[]): Provider {
  const open = hosts.filter(({ online, cordoned }) => online && !cordoned);
  const sum = (of: readonly HostSnapshot[], amount: (host: HostSnapshot) => number) =>
    of.reduce((total, host) => total + amount(host), 0);
  const prices = hosts.flatMap((host) => host.prices ?? []);
  return {
    name,
    regions: [...new Set(hosts.map(({ region }) => region))].sort(),
    available: open.length > 0,
    totalCpus: sum(hosts, ({ capacity }) => capacity.cpus),
    availableCpus: sum(open, ({ capacity, used }) => Math.max(0, capacity.cpus - used.cpus)),
    totalMemoryBytes: sum(hosts, ({ capacity }) => capacity.memoryBytes),
    availableMemoryBytes: sum(open, ({ capacity, used }) =>
      Math.max(0, capacity.memoryBytes - used.memoryBytes),
    ),
    prices: prices.toSorted((a, b) => a.cpuPerHour - b.cpuPerHour)[0],
  };
}

function checkKnown(field: string, asked: readonly string[] | undefined, there: readonly string[]): void {
  const known = [...new Set(there)].sort();
  const unknown = asked?.filter((name) => !known.includes(name)) ?? [];
  if (unknown.length > 0) throw invalidField(field, `no host is in ${unknown.join(", ")}`, { known });
}
