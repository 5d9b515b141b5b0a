import { z } from "zod";
import type { MachineSeries, MetricsQuery } from "../../app/metrics-query.ts";
import type { ResourceApi } from "../../app/resource-api.ts";
import { timeParameter } from "../../http/parameters.ts";
import { defineRoute, type Route } from "../../http/route.ts";
import { withPrefix } from "../dialect.ts";
import { inWordsOf } from "../words.ts";
import { vmKind } from "./vm.ts";

export interface MetricsRoutesOptions {
  readonly resources: Pick<ResourceApi, "get">;
  readonly metrics: Pick<MetricsQuery, "machine" | "system">;
}

const systemMetrics = z.object({
  timestamp: z.iso.datetime(),
  cpu_usage: z.number(),
  memory_usage: z.number(),
  disk_usage: z.number(),
  network_in: z.number(),
  network_out: z.number(),
  active_vms: z.int(),
  active_migrations: z.int(),
});

const vmMetrics = z.object({
  vm_id: z.string(),
  start_time: z.iso.datetime(),
  end_time: z.iso.datetime(),
  interval_seconds: z.int(),
  metrics: z.array(
    z.object({
      timestamp: z.iso.datetime(),
      cpu_usage: z.number().describe("0 to 1 of all its vCPUs"),
      memory_usage: z.number().describe("0 to 1"),
      memory_used: z.number(),
      disk_read: z.number().describe("bytes since it started"),
      disk_write: z.number(),
      network_in: z.number(),
      network_out: z.number(),
    }),
  ),
});

export function metricsRoutes({ resources, metrics }: MetricsRoutesOptions): Route[] {
  return [
    defineRoute({
      method: "GET",
      path: "/v1/metrics/system",
      operationId: "getSystemMetrics",
      summary: "Usage of the whole cloud now",
      tag: "metrics",
      role: "viewer",
      answers: { 200: { description: "usage", schema: systemMetrics, name: "SystemMetrics" } },
      examples: {
        answers: {
          200: {
            timestamp: "2026-01-15T10:32:00Z",
            cpu_usage: 0.65,
            memory_usage: 0.72,
            disk_usage: 0.45,
            network_in: 1_073_741_824,
            network_out: 536_870_912,
            active_vms: 150,
            active_migrations: 3,
          },
        },
      },
      async handle() {
        const usage = await metrics.system();
        return {
          status: 200,
          headers: {},
          body: {
            timestamp: usage.at.toISOString(),
            cpu_usage: usage.cpuUsage,
            memory_usage: usage.memoryUsage,
            disk_usage: usage.diskUsage,
            network_in: usage.networkInBytes,
            network_out: usage.networkOutBytes,
            active_vms: usage.runningInstances,
            active_migrations: usage.runningMigrations,
          },
        };
      },
    }),
    defineRoute({
      method: "GET",
      path: "/v1/vms/{vm_id}/metrics",
      operationId: "getVmMetrics",
      summary: "Usage of a VM over time, in at most 500 points",
      tag: "metrics",
      role: "viewer",
      query: z.strictObject({
        start_time: timeParameter("RFC 3339 or a date; default: an hour before the end", "start").optional(),
        end_time: timeParameter("RFC 3339 or a date; default: now", "end").optional(),
      }),
      answers: { 200: { description: "the points", schema: vmMetrics, name: "VmMetrics" } },
      examples: {
        answers: {
          200: {
            vm_id: "vm-1m7zk3q9x4v8c2b6n5d0",
            start_time: "2026-01-15T09:32:00Z",
            end_time: "2026-01-15T10:32:00Z",
            interval_seconds: 10,
            metrics: [
              {
                timestamp: "2026-01-15T10:31:50Z",
                cpu_usage: 0.42,
                memory_usage: 0.68,
                memory_used: 5_841_155_522,
                disk_read: 4_194_304,
                disk_write: 8_388_608,
                network_in: 1_024_000,
                network_out: 512_000,
              },
            ],
          },
        },
      },
      handle: inWordsOf(vmKind, async ({ ctx, params, query }) => {
        const { id } = await resources.get(ctx, vmKind.definition, params["vm_id"] ?? "");
        const series = await metrics.machine(id, { start: query.start_time, end: query.end_time });
        return { status: 200, headers: {}, body: toVmMetrics(id, series) };
      }),
    }),
  ];
}

function toVmMetrics(id: string, series: MachineSeries): z.infer<typeof vmMetrics> {
  return {
    vm_id: withPrefix(id, vmKind.idPrefix),
    start_time: series.start.toISOString(),
    end_time: series.end.toISOString(),
    interval_seconds: series.intervalSeconds,
    metrics: series.points.map((point) => ({
      timestamp: point.at.toISOString(),
      cpu_usage: point.cpu_usage,
      memory_usage: point.memory_total_bytes > 0 ? point.memory_used_bytes / point.memory_total_bytes : 0,
      memory_used: point.memory_used_bytes,
      disk_read: point.disk_read_bytes,
      disk_write: point.disk_write_bytes,
      network_in: point.network_in_bytes,
      network_out: point.network_out_bytes,
    })),
  };
}
