/**
 * The standard simulation as data: hosts in places with prices, and what happens to them, in order. By its seed it is
 * the same every time. Nobody says where their users are unless asked to: a distance is a wish beside the price, and
 * prices can only be compared under the same constraints.
 */
import { perHour } from "#cp/scheduler/prices.ts";
import type { HourlyPrices, PlacementRequest } from "#cp/scheduler/snapshot.ts";
import { randomFleet, randomFrom, sizes } from "./fleet.ts";
import type { SimulatedHost } from "./swarm.ts";

export interface PlanShape {
  readonly hosts: number;
  readonly vms: number;
  readonly seed: number;
  /** How many of a hundred requests say where their users are. */
  readonly nearPercent: number;
}

/** What one place takes: one line of the price sheet. */
export interface SheetLine {
  readonly provider: string;
  readonly region: string;
  readonly prices: HourlyPrices;
}

export type SimEvent =
  | { readonly type: "arrive"; readonly name: string; readonly request: PlacementRequest }
  | { readonly type: "depart"; readonly name: string }
  | { readonly type: "reprice"; readonly line: SheetLine };

export interface Plan {
  readonly hosts: readonly SimulatedHost[];
  readonly sheet: readonly SheetLine[];
  readonly events: readonly SimEvent[];
}

const hostsPerSite = 10;
const fewestSites = 12;
/** Few enough that none of them is full while others have room: whoever wants it has a choice there, too. */
const providers = 4;
const countries = 8;
/** So many machines arrive for one that leaves. */
const arrivalsPerDeparture = 5;
/** Prices change so often; a quarter of them each time, by up to a half. */
const priceRounds = 3;
/** Of the cheapest tenth, which will be full, every other host can be cut off. */
const cheapShare = 0.1;
const typical = sizes[1];

export function makePlan(shape: PlanShape): Plan {
  const random = randomFrom(shape.seed);
  const sites = Math.max(fewestSites, Math.round(shape.hosts / hostsPerSite));
  const fleet = randomFleet({ hosts: shape.hosts, instances: 0, sites }, random).map((host, index) => ({
    ...host,
    provider: `provider-${(index % sites) % providers}`,
  }));
  const sheet = new Map<string, SheetLine>();
  for (const { provider, region, prices } of fleet) {
    const place = `${provider} ${region}`;
    if (prices && !sheet.has(place)) sheet.set(place, { provider, region, prices });
  }
  const priceAt = ({ provider, region }: { provider: string; region: string }) => {
    const prices = sheet.get(`${provider} ${region}`)?.prices;
    return prices ? perHour(prices, typical) : Infinity;
  };
  const cheap = [...fleet]
    .sort((a, b) => priceAt(a) - priceAt(b))
    .slice(0, Math.ceil(fleet.length * cheapShare));
  const canBeCut = new Set(cheap.filter((_host, index) => index % 2 === 0));
  const hosts = fleet.map((host, index) => {
    const { provider, region, zone, location, capacity } = host;
    const { cpus, memoryBytes, diskBytes } = capacity;
    const country = `country-${(index % sites) % countries}`;
    return {
      name: `host-${index}`,
      labels: { provider, region, zone, location: { ...location, city: "", country } },
      capacity: { cpus, memoryBytes, diskBytes },
      canBeCut: canBeCut.has(host),
    };
  });
  return {
    hosts,
    sheet: [...sheet.values()],
    events: makeEvents(shape, [...sheet.values()], random),
  };
}

function makeEvents(
  { vms, nearPercent }: PlanShape,
  sheet: readonly SheetLine[],
  random: () => number,
): SimEvent[] {
  const events: SimEvent[] = [];
  const present: string[] = [];
  const repriceEvery = Math.ceil(vms / (priceRounds + 1));
  for (let index = 1; index <= vms; index++) {
    const name = `vm-${index}`;
    events.push({ type: "arrive", name, request: makeRequest(nearPercent / 100, random) });
    present.push(name);
    if (index % arrivalsPerDeparture === 0) {
      const [left] = present.splice(Math.floor(random() * present.length), 1);
      if (left !== undefined) events.push({ type: "depart", name: left });
    }
    if (index % repriceEvery !== 0) continue;
    for (const line of sheet)
      if (random() < 0.25) events.push({ type: "reprice", line: reprice(line, random) });
  }
  return events;
}

/** A fifth wants one provider, a fifth one of two countries. */
function makeRequest(near: number, random: () => number): PlacementRequest {
  const wish = random();
  const country = Math.floor(random() * countries);
  return {
    ...(sizes[Math.floor(random() * sizes.length)] ?? sizes[0]),
    imageArchitecture: "x86_64",
    capability: "lease",
    ...(wish < 0.2 && { provider: `provider-${Math.floor(random() * providers)}` }),
    ...(wish > 0.8 && { countries: [`country-${country}`, `country-${(country + 1) % countries}`] }),
    ...(random() < near && { near: { latitude: random() * 130 - 60, longitude: random() * 360 - 180 } }),
  };
}

function reprice({ prices, ...place }: SheetLine, random: () => number): SheetLine {
  const factor = 0.5 + random();
  const { cpuPerHour, memoryGibPerHour } = prices;
  return {
    ...place,
    prices: {
      ...prices,
      cpuPerHour: cpuPerHour * factor,
      memoryGibPerHour: memoryGibPerHour * factor,
    },
  };
}
