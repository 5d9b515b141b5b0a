/** Asking for a migration by way of the instance that is to move, and asking what it would be. */
import { z } from "zod";
import type { Ctx } from "#kernel/ctx.ts";
import type { MigrationPlan } from "../app/migration-planner.ts";
import type { ResourceApi } from "../app/resource-api.ts";
import { parseInput } from "../app/validation.ts";
import { instance, type Instance } from "../resources/instance/instance.resource.ts";
import {
  migration,
  migrationSpec,
  migrationTypes,
  type MigrationSpec,
} from "../resources/migration/migration.resource.ts";
import { etagOf, mutationOf } from "./conditional.ts";
import { labelsSchema, nameSchema, resourceSchema, toNative } from "./native-json.ts";
import { defineRoute, type Route } from "./route.ts";

export interface MigrationRoutesOptions {
  readonly resources: ResourceApi;
  readonly planner: { plan(ctx: Ctx, resource: Instance, spec: MigrationSpec): Promise<MigrationPlan> };
}

const base = "/skerry/v1";

const planSchema = z.object({
  possible: z.boolean(),
  type: z.enum(migrationTypes),
  target: z.object({ host_id: z.string(), provider: z.string(), region: z.string() }).nullable(),
  predicted: z.object({
    bytes_total: z.number(),
    disk_kept_bytes: z.number().describe("of its disks: what the target has kept since it was there last"),
    bytes_on_wire: z.number(),
    seconds: z.number(),
    downtime_ms: z.number().nullable(),
    basis: z.enum(["last migration", "assumption"]),
    risk: z.string().nullable().describe("what may go wrong, in words"),
  }),
  blockers: z.array(z.object({ code: z.string(), message: z.string() })),
});

const wish = migrationSpec.omit({ instance: true, cancel: true });
const extra = {
  name: nameSchema.optional(),
  labels: labelsSchema.optional(),
  dry_run: z.boolean().optional().describe("answer what it would be, and do nothing"),
};

/** POST /instances/{id}/migrate: a migration, or with `dry_run` what one would be. */
export function migrationRoutes({ resources, planner }: MigrationRoutesOptions): Route[] {
  return [
    defineRoute({
      method: "POST",
      path: `${base}/instances/{id}/migrate`,
      operationId: "migrateInstance",
      summary: "Move it to another host; a running one goes on running",
      tag: "instances",
      role: "operator",
      body: z.looseObject(extra),
      bodyDoc: wish.extend(extra),
      mutates: true,
      answers: {
        200: { description: "what it would be", schema: planSchema, name: "MigrationPlan" },
        201: { description: "it has been asked for", schema: resourceSchema(migration), name: "Migration" },
      },
      async handle(call) {
        const { ctx, params, body } = call;
        const { name, labels, dry_run, ...wanted } = body;
        const moving = (await resources.get(ctx, instance, params["id"] ?? "")) as Instance;
        const spec = { ...parseInput(wish, wanted, ""), instance: moving.id, cancel: false };
        if (dry_run) {
          return { status: 200, headers: {}, body: { ...(await planner.plan(ctx, moving, spec)) } as never };
        }
        const input = { name: name ?? moving.name, ...(labels && { labels }), spec };
        const options = mutationOf(call, (r) => ({
          status: 201,
          headers: { ETag: etagOf(r), Location: `${base}/migrations/${r.id}` },
          body: toNative(r),
        }));
        return resources.create(ctx, migration, input, options);
      },
    }),
  ];
}
