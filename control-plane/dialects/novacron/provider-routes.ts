import { z } from "zod";
import { Fault } from "#kernel/fault.ts";
import { findCity } from "../../app/cities.ts";
import type { Provider, Providers } from "../../app/providers.ts";
import { invalidField } from "../../app/validation.ts";
import { defineRoute, type Route } from "../../http/route.ts";
import { goals, type SiteAdvice } from "../../scheduler/advise.ts";
import type { GeoPoint } from "../../scheduler/snapshot.ts";
import { reasonsFor, whatWouldChange } from "./advice.ts";

export interface ProviderRoutesOptions {
  readonly providers: Pick<Providers, "list" | "advise">;
}

const provider = z.object({
  name: z.string(),
  regions: z.array(z.string()),
  available: z.boolean(),
  resources: z.object({
    total_cpu: z.int(),
    available_cpu: z.int(),
    total_memory: z.int(),
    available_memory: z.int(),
  }),
  pricing: z
    .object({ cpu_per_hour: z.number(), memory_per_gb: z.number(), currency: z.string() })
    .nullable()
    .describe("the lowest of its hosts; null when none has told a price"),
});

const names = z.array(z.string().min(1).max(63)).min(1).max(100).optional();
const optimalRequest = z.strictObject({
  cpu: z.int().min(1).max(512),
  memory: z.int().min(1).describe("bytes"),
  disk: z.int().min(0).default(0).describe("bytes"),
  optimize_for: z.enum(goals).default("balanced"),
  near: z
    .union([
      z.strictObject({ latitude: z.number().min(-90).max(90), longitude: z.number().min(-180).max(180) }),
      z.strictObject({ city: z.string().min(1).max(100) }),
    ])
    .optional(),
  constraints: z
    .strictObject({
      providers: names,
      regions: names,
      countries: names,
      max_price: z.number().min(0).optional().describe("per hour"),
      currency: z.string().length(3).default("USD").describe("of max_price; hosts' prices are converted"),
    })
    .prefault({}),
});

const site = z.object({
  provider: z.string(),
  region: z.string(),
  score: z.number().describe("0 to 1"),
  estimated_cost: z.number().nullable().describe("per hour; null when no price is known"),
  currency: z.string().nullable(),
  distance_km: z.number().nullable(),
  hosts: z.int().describe("how many there would take it"),
  parts: z.object({ cost: z.number(), latency: z.number(), availability: z.number() }),
});
const optimalAnswer = site.extend({
  reasoning: z.array(z.string()),
  alternatives: z.array(site),
  would_change: z.array(z.string()),
});

const GiB = 1024 ** 3;
const exampleProvider = {
  name: "aws",
  regions: ["us-east-1", "us-west-2"],
  available: true,
  resources: {
    total_cpu: 1000,
    available_cpu: 450,
    total_memory: 2048 * GiB,
    available_memory: 1024 * GiB,
  },
  pricing: { cpu_per_hour: 0.05, memory_per_gb: 0.01, currency: "USD" },
};
const exampleSite = {
  provider: "aws",
  region: "us-east-1",
  score: 0.92,
  estimated_cost: 0.25,
  currency: "USD",
  distance_km: 330,
  hosts: 12,
  parts: { cost: 1, latency: 0.8, availability: 0.9 },
};

export function providerRoutes({ providers }: ProviderRoutesOptions): Route[] {
  return [
    defineRoute({
      method: "GET",
      path: "/v1/providers",
      operationId: "listProviders",
      summary: "Providers with their regions, room and prices",
      tag: "providers",
      role: "viewer",
      answers: { 200: { description: "all", schema: z.object({ providers: z.array(provider) }) } },
      examples: { answers: { 200: { providers: [exampleProvider] } } },
      async handle() {
        return { status: 200, headers: {}, body: { providers: (await providers.list()).map(toProvider) } };
      },
    }),
    defineRoute({
      method: "POST",
      path: "/v1/providers/optimal",
      operationId: "getOptimalProvider",
      summary: "Which provider and region suits best; reserves nothing",
      tag: "providers",
      role: "viewer",
      reads: true,
      body: optimalRequest,
      answers: { 200: { description: "the best, and why", schema: optimalAnswer, name: "OptimalProvider" } },
      examples: {
        body: { cpu: 4, memory: 8 * GiB, disk: 100 * GiB, optimize_for: "cost", near: { city: "New York" } },
        answers: {
          200: {
            ...exampleSite,
            reasoning: ["0.250 USD/h, 20 % below the next, aws/us-east-1"],
            alternatives: [],
            would_change: ["no other provider or region would take it"],
          },
        },
      },
      async handle({ body }) {
        const { cpu, memory, disk, optimize_for: goal, near, constraints } = body;
        const place = near && toPlace(near);
        const { sites, why } = await providers.advise({
          amounts: { cpus: cpu, memoryBytes: memory, diskBytes: disk },
          goal,
          near: place,
          ...{ providers: constraints.providers, regions: constraints.regions },
          countries: constraints.countries,
          ...(constraints.max_price !== undefined && {
            maxPrice: { amount: constraints.max_price, currency: constraints.currency },
          }),
        });
        const [best, next] = sites;
        if (!best) throw new Fault("exhausted", `no provider can take it: ${why}`, { reason: "NO_PROVIDER" });
        const answer = {
          ...toSite(best),
          reasoning: reasonsFor(best, next, place?.name),
          alternatives: sites.slice(1, 6).map(toSite),
          would_change: whatWouldChange(best, next, place !== undefined),
        };
        return { status: 200, headers: {}, body: answer };
      },
    }),
  ];
}

function toPlace(
  near: NonNullable<z.infer<typeof optimalRequest>["near"]>,
): GeoPoint & { readonly name?: string } {
  if (!("city" in near)) return near;
  const city = findCity(near.city);
  if (!city) throw invalidField("near.city", "is not in the table; give latitude and longitude instead");
  return city;
}

function toProvider({ prices, ...known }: Provider): z.infer<typeof provider> {
  return {
    name: known.name,
    regions: [...known.regions],
    available: known.available,
    resources: {
      total_cpu: known.totalCpus,
      available_cpu: known.availableCpus,
      total_memory: known.totalMemoryBytes,
      available_memory: known.availableMemoryBytes,
    },
    pricing: prices
      ? { cpu_per_hour: prices.cpuPerHour, memory_per_gb: prices.memoryGibPerHour, currency: prices.currency }
      : null,
  };
}

function toSite({ price, km, parts, ...known }: SiteAdvice): z.infer<typeof site> {
  return {
    provider: known.provider,
    region: known.region,
    score: round(known.score),
    estimated_cost: price ? round(price.amount) : null,
    currency: price?.currency ?? null,
    distance_km: km === undefined ? null : Math.round(km),
    hosts: known.hosts,
    parts: {
      cost: round(parts.cost),
      latency: round(parts.latency),
      availability: round(parts.availability),
    },
  };
}

function round(value: number): number {
  return Math.round(value * 1e4) / 1e4;
}
