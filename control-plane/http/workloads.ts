/** What a workload printed, from the host that runs it. */
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { z } from "zod";
import { Fault } from "#kernel/fault.ts";
import type { AgentPort } from "../agents/port.ts";
import type { ResourceApi } from "../app/resource-api.ts";
import { workload } from "../resources/workload/workload.resource.ts";
import { integerParameter } from "./parameters.ts";
import { elsewhere, relayRequest, type Locate } from "./relay.ts";
import { defineRoute, type Route } from "./route.ts";

export interface WorkloadRoutesOptions {
  readonly resources: Pick<ResourceApi, "get">;
  readonly agents: Pick<AgentPort, "readWorkloadLog">;
  readonly locate: Locate;
}

const mostLines = 1000;
const defaultLines = 100;

const line = z.object({ at: z.iso.datetime(), stream: z.enum(["stdout", "stderr"]), text: z.string() });

/** The routes of workloads that no kind says. */
export function workloadRoutes({ resources, agents, locate }: WorkloadRoutesOptions): Route[] {
  return [
    defineRoute({
      method: "GET",
      path: "/skerry/v1/workloads/{id}/log",
      operationId: "readWorkloadLog",
      summary: "The last lines that a workload printed, oldest first",
      tag: "workloads",
      role: "viewer",
      query: z.strictObject({
        lines: integerParameter({
          min: 1,
          max: mostLines,
          default: defaultLines,
          description: "how many at most",
        }).optional(),
      }),
      answers: { 200: { description: "the lines", schema: z.object({ lines: z.array(line) }) } },
      async handle({ ctx, params, query, request }) {
        const { id, hostId } = await resources.get(ctx, workload, params["id"] ?? "");
        if (hostId === undefined) {
          throw new Fault("conflict", "the workload has no host yet", { reason: "NOT_PLACED" });
        }
        const url = await elsewhere(locate, hostId, request);
        if (url !== undefined) return relayRequest(ctx, url, request);
        const lines = query.lines ?? defaultLines;
        const log = await agents.readWorkloadLog(hostId, { workloadId: id, lines }, ctx.signal, ctx);
        const found = log.lines.map(({ at, stream, text }) => ({
          at: (at ? timestampDate(at) : new Date(0)).toISOString(),
          ...{ stream, text },
        }));
        return { status: 200, headers: {}, body: { lines: found } };
      },
    }),
  ];
}
