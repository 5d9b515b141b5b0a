/** The audit log in NovaCron's words: an instance is a `vm` here. */
import { z } from "zod";
import type { AuditEvent, AuditLog } from "../../app/audit.ts";
import { integerParameter, timeParameter } from "../../http/parameters.ts";
import { defineRoute, type Route } from "../../http/route.ts";

export interface AuditRoutesOptions {
  readonly audit: Pick<AuditLog, "list">;
}

const defaultLimit = 50;
const maxLimit = 1000;
const maxPage = 1_000_000;

const wireEvent = z.object({
  id: z.string(),
  action: z.string(),
  user_id: z.string(),
  username: z.string(),
  resource: z.string(),
  resource_id: z.string(),
  timestamp: z.iso.datetime(),
  success: z.boolean(),
  ip_address: z.string(),
  request_id: z.string(),
  reason: z.string().optional(),
});

const exampleEvent = {
  id: "audit-1m7zk3q9x4v8c2b6n5d0",
  action: "vm.create",
  user_id: "usr-1m7zk3q9x4v8c2b6n5d0",
  username: "admin",
  resource: "vm",
  resource_id: "vm-1m7zk3q9x4v8c2b6n5d0",
  timestamp: "2026-01-15T10:30:00Z",
  success: true,
  ip_address: "203.0.113.42",
  request_id: "req-5f1c2d3e",
};

const toWire = (word: string) => word.replace(/^instance(?=\.|$)/, "vm");
const fromWire = (word: string) => word.replace(/^vm(?=\.|$)/, "instance");

function encode({ id, at, event }: AuditEvent) {
  return {
    id,
    action: toWire(event.action),
    user_id: event.user_id,
    username: event.username,
    resource: toWire(event.resource),
    resource_id: event.resource_id ?? "",
    timestamp: at.toISOString(),
    success: event.success,
    ip_address: event.ip_address ?? "",
    request_id: event.request_id,
    ...(event.reason === undefined ? {} : { reason: event.reason }),
  };
}

export function auditRoutes({ audit }: AuditRoutesOptions): Route[] {
  return [
    defineRoute({
      method: "GET",
      path: "/v1/audit/logs",
      operationId: "getAuditLogs",
      summary: "Get the project's audit log, the newest first",
      tag: "audit",
      role: "admin",
      query: z.strictObject({
        user_id: z.string().max(64).optional(),
        action: z.string().max(128).optional().meta({ description: "such as vm.create" }),
        start_time: timeParameter("first instant", "start").optional(),
        end_time: timeParameter("last instant", "end").optional(),
        page: integerParameter({ min: 1, max: maxPage, default: 1, description: "page, from 1" }).optional(),
        limit: integerParameter({
          min: 1,
          max: maxLimit,
          default: defaultLimit,
          description: "events per page",
        }).optional(),
      }),
      answers: {
        200: {
          description: "a page",
          schema: z.object({ events: z.array(wireEvent), total: z.int(), page: z.int(), limit: z.int() }),
        },
      },
      examples: { answers: { 200: { events: [exampleEvent], total: 1, page: 1, limit: defaultLimit } } },
      async handle({ ctx, query: { page = 1, limit = defaultLimit, ...given } }) {
        const { events, total } = await audit.list(ctx, {
          userId: given.user_id,
          action: given.action === undefined ? undefined : fromWire(given.action),
          start: given.start_time,
          end: given.end_time,
          limit,
          offset: (page - 1) * limit,
        });
        return { status: 200, headers: {}, body: { events: events.map(encode), total, page, limit } };
      },
    }),
  ];
}
