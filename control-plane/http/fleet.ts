/** Native routes about the fleet as a whole. */
import { z } from "zod";
import type { Json } from "#kernel/fault.ts";
import { prometheusType } from "#kernel/prometheus.ts";
import type { FleetOverview, HostUsage } from "../app/fleet-overview.ts";
import type { Relocation, RelocationAdvice } from "../app/relocation-advice.ts";
import { defineRoute, type Route } from "./route.ts";

const base = "/skerry/v1";

const amounts = z.object({ cpus: z.number(), memory_bytes: z.number(), disk_bytes: z.number() });
const hostUsage = z.object({
  id: z.string(),
  name: z.string(),
  provider: z.string(),
  region: z.string(),
  online: z.boolean(),
  cordoned: z.boolean(),
  instances: z.int(),
  capacity: amounts.describe("what it may promise"),
  used: amounts.describe("what it has promised"),
  cost: z
    .object({ amount: z.number(), currency: z.string() })
    .nullable()
    .describe("of what it has promised, per hour"),
});
const relocation = z.object({
  instance_id: z.string(),
  name: z.string(),
  from: z.string(),
  to: z.string(),
  saves_per_hour: z.number().nullable(),
  currency: z.string().nullable(),
  saves_km: z.number().nullable(),
  move_costs: z.number().describe("traffic out of where it is"),
  pays_back_hours: z.number().nullable(),
  reasons: z.array(z.string()),
  automatic: z
    .boolean()
    .describe("it is carried out without being asked for: the instance's `relocation` says so"),
});

/** The routes, to be given to `nativeSurface`. */
export function fleetRoutes(overview: FleetOverview, advice: Pick<RelocationAdvice, "ofProject">): Route[] {
  return [
    defineRoute({
      method: "GET",
      path: `${base}/fleet/usage`,
      operationId: "getFleetUsage",
      summary: "What hosts have promised and what that costs, the fullest first",
      tag: "hosts",
      role: "cloud-admin",
      query: z.strictObject({ limit: z.coerce.number().int().min(1).max(10_000).default(100) }),
      answers: {
        200: {
          description: "the fullest hosts, of how many",
          schema: z.object({ items: z.array(hostUsage), total: z.int() }),
        },
      },
      async handle({ query: { limit } }) {
        const usage = await overview.usage();
        const items = usage.slice(0, limit).map(toUsage);
        return { status: 200, headers: {}, body: { items, total: usage.length } };
      },
    }),
    defineRoute({
      method: "GET",
      path: `${base}/metrics`,
      operationId: "getMetrics",
      summary: "The cloud and this replica in Prometheus' text format",
      tag: "hosts",
      role: "cloud-admin",
      answers: {
        200: {
          description: "as many lines whatever the size of the cloud",
          schema: z.string(),
          contentType: "text/plain",
        },
      },
      async handle() {
        const headers = { "Content-Type": prometheusType };
        return { status: 200, headers, raw: await overview.prometheus() };
      },
    }),
    defineRoute({
      method: "GET",
      path: `${base}/placement/advice`,
      operationId: "advisePlacement",
      summary: "Moves that would save money or distance and pay for themselves; carries out nothing",
      tag: "instances",
      role: "viewer",
      answers: {
        200: {
          description: "the greatest saving first",
          schema: z.object({ items: z.array(relocation), total: z.int() }),
        },
      },
      async handle({ ctx }) {
        const items = (await advice.ofProject(ctx.principal.project, ctx.now())).map(toRelocation);
        return { status: 200, headers: {}, body: { items, total: items.length } };
      },
    }),
  ];
}

function toAmounts({ cpus, memoryBytes, diskBytes }: HostUsage["used"]) {
  return { cpus, memory_bytes: memoryBytes, disk_bytes: diskBytes };
}

function toUsage({ capacity, used, cost, ...host }: HostUsage): Json {
  return { ...host, capacity: toAmounts(capacity), used: toAmounts(used), cost: cost && { ...cost } };
}

function toRelocation({ instance, from, to, reasons, automatic, ...move }: Relocation): Json {
  return {
    ...{ instance_id: instance.id, name: instance.name, from, to },
    saves_per_hour: move.savesPerHour,
    currency: move.currency,
    saves_km: move.savesKm,
    move_costs: move.moveCosts,
    pays_back_hours: move.paysBackHours,
    reasons: [...reasons],
    automatic,
  };
}
