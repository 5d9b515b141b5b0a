import { z } from "zod";
import type { MachineSeries, MetricsQuery } from "../../app/metrics-query.ts";
import type { ResourceApi } from "../../app/resource-api.ts";
import { timeParameter } from "../../http/parameters.ts";
import { defineRoute, type Route } from "../../http/route.ts";
import { instance, type Instance, type InstanceSpec } from "../../resources/instance/instance.resource.ts";
import { singlePath, type Dialect } from "../dialect.ts";
import { inWordsOf } from "../words.ts";
import { instanceKind } from "./instance.ts";

const point = z.object({
  cpu_usage_percent: z.number(),
  memory_usage_percent: z.number(),
  disk_usage_percent: z.number(),
  network_in_bytes: z.number().describe("since it started"),
  network_out_bytes: z.number(),
  created_at: z.iso.datetime(),
});

export interface MetricsOptions {
  readonly resources: ResourceApi;
  readonly metrics: Pick<MetricsQuery, "machine">;
}

/** Usage of an instance over time; nothing when its owner turned monitoring off. */
export function metricsRoute(dialect: Dialect, { resources, metrics }: MetricsOptions): Route {
  const start = timeParameter("RFC 3339 or a date; default: an hour before the end", "start");
  const end = timeParameter("RFC 3339 or a date; default: now", "end");
  const query = z.strictObject({ start_time: start.optional(), end_time: end.optional() });
  return defineRoute({
    method: "GET",
    path: singlePath(dialect, instanceKind, "metrics"),
    operationId: "getInstanceMetrics",
    summary: "Usage of an instance over time, in at most 500 points",
    tag: "instances",
    role: "viewer",
    query,
    answers: { 200: { description: "the points, oldest first", schema: z.array(point) } },
    examples: {
      answers: {
        200: [
          {
            cpu_usage_percent: 42.5,
            memory_usage_percent: 68.3,
            disk_usage_percent: 45,
            network_in_bytes: 1_024_000,
            network_out_bytes: 512_000,
            created_at: "2026-01-15T10:31:50Z",
          },
        ],
      },
    },
    handle: inWordsOf(instanceKind, async ({ ctx, params, query: { start_time, end_time } }) => {
      const { id, desired } = (await resources.get(ctx, instance, params["instance_id"] ?? "")) as Instance;
      if (!desired.monitoring) return { status: 200, headers: {}, body: [] };
      const series = await metrics.machine(id, { start: start_time, end: end_time });
      return { status: 200, headers: {}, body: toPoints(series, desired) };
    }),
  });
}

function toPoints({ points }: MachineSeries, { disk_bytes }: InstanceSpec): z.infer<typeof point>[] {
  return points.map((sample) => ({
    cpu_usage_percent: percent(sample.cpu_usage, 1),
    memory_usage_percent: percent(sample.memory_used_bytes, sample.memory_total_bytes),
    disk_usage_percent: percent(sample.disk_allocated_bytes, disk_bytes),
    network_in_bytes: sample.network_in_bytes,
    network_out_bytes: sample.network_out_bytes,
    created_at: sample.at.toISOString(),
  }));
}

const percent = (part: number, whole: number) => (whole > 0 ? Math.round((part / whole) * 10_000) / 100 : 0);
