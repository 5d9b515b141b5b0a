import { z } from "zod";
import type { Ctx } from "#kernel/ctx.ts";
import type { Reply, ResourceApi } from "../../app/resource-api.ts";
import { etagOf, mutationOf } from "../../http/conditional.ts";
import { defineRoute, type Call, type Route } from "../../http/route.ts";
import { instance, type Instance } from "../../resources/instance/instance.resource.ts";
import {
  migration,
  migrationTypes,
  type Migration,
  type MigrationSpec,
} from "../../resources/migration/migration.resource.ts";
import { exampleOf } from "../../resources/example.ts";
import { singlePath, withPrefix } from "../dialect.ts";
import { kindRoutes } from "../kind-routes.ts";
import { inWordsOf } from "../words.ts";
import { novacron } from "./dialect.ts";
import { formatDuration } from "./duration.ts";
import {
  encodeMigration,
  migrateVm,
  migratingWords,
  migrationKind,
  migrationView,
  toMigrationSpec,
  type MigrateVm,
} from "./migration.ts";

/** What a migration would be, as the planner answers. */
export interface Prospect {
  readonly possible: boolean;
  readonly type: MigrationSpec["type"];
  readonly target: { readonly host_id: string; readonly provider: string; readonly region: string } | null;
  readonly predicted: {
    readonly bytes_total: number;
    readonly bytes_on_wire: number;
    readonly seconds: number;
    readonly downtime_ms: number | null;
    readonly basis: string;
  };
  readonly blockers: readonly { readonly code: string; readonly message: string }[];
}

export interface MigrationRoutesOptions {
  readonly resources: ResourceApi;
  readonly planner: { plan(ctx: Ctx, resource: Instance, spec: MigrationSpec): Promise<Prospect> };
}

const shown = { schema: migrationView, name: "Migration" };

const prospect = z.object({
  vm_id: z.string(),
  dry_run: z.literal(true),
  possible: z.boolean(),
  blockers: z.array(z.object({ code: z.string(), message: z.string() })),
  migration_type: z.enum(migrationTypes),
  target_provider: z.string().nullable(),
  target_region: z.string().nullable(),
  target_host_id: z.string().nullable(),
  bytes_total: z.number().describe("of memory and disk"),
  data_transferred: z.number().describe("predicted bytes on the wire"),
  duration: z.string().describe("predicted"),
  downtime: z.string().nullable().describe("predicted; null for a VM that is off"),
  basis: z.string().describe("what the prediction stands on"),
});

export function migrationRoutes(options: MigrationRoutesOptions): Route[] {
  return [migrateRoute(options), ...kindRoutes(novacron, migrationKind, options.resources)];
}

/** One that has only just been asked for. */
const over = exampleOf(migration);
const example = over && ({ ...over, observed: undefined, phase: "preparing" } as Migration);

function migrateRoute({ resources, planner }: MigrationRoutesOptions): Route {
  return defineRoute({
    method: "POST",
    path: "/v1/vms/{vm_id}/migrate",
    operationId: "migrateVm",
    summary: "Move a VM to another provider, region or host; a running one goes on running",
    tag: "migrations",
    role: "operator",
    body: migrateVm,
    mutates: true,
    answers: {
      200: { description: "what it would be (dry_run)", schema: prospect, name: "MigrationProspect" },
      202: { description: "it has begun", ...shown },
    },
    examples: {
      body: {
        target_provider: "azure",
        target_region: "eastus",
        migration_type: "live",
        enable_wan_optimization: true,
        max_downtime: "1s",
      },
      ...(example && { answers: { 202: begun(example, { predicted: { seconds: 80 } }).body } }),
    },
    handle: inWordsOf(migratingWords, migrate),
  });

  async function migrate(call: Call<unknown, MigrateVm>): Promise<Reply> {
    const { ctx, params, body } = call;
    const moving = (await resources.get(ctx, instance, params["vm_id"] ?? "")) as Instance;
    const spec = toMigrationSpec(body, moving.id);
    const plan = await planner.plan(ctx, moving, spec);
    if (body.dry_run) return { status: 200, headers: {}, body: encodeProspect(moving, plan) };
    const reply = mutationOf(call, (resource) => begun(resource as Migration, plan));
    return resources.create(ctx, migration, { name: moving.name, spec }, reply);
  }
}

/** A migration that was just asked for: nothing is measured yet, so the plan says when it will have ended. */
function begun(
  resource: Migration,
  { predicted }: { readonly predicted: Pick<Prospect["predicted"], "seconds"> },
): Reply {
  const expected = new Date(resource.createdAt.getTime() + predicted.seconds * 1000);
  return {
    status: 202,
    headers: {
      ETag: etagOf(resource),
      Location: singlePath(novacron, migrationKind).replace("{migration_id}", resource.id),
    },
    body: { ...encodeMigration(resource), estimated_completion: expected.toISOString() },
  };
}

function encodeProspect({ id }: Instance, plan: Prospect): z.infer<typeof prospect> {
  const { possible, type, target, predicted, blockers } = plan;
  return {
    vm_id: withPrefix(id, "vm"),
    dry_run: true,
    possible,
    blockers: blockers.map(({ code, message }) => ({ code, message })),
    migration_type: type,
    target_provider: target?.provider ?? null,
    target_region: target?.region ?? null,
    target_host_id: target?.host_id ?? null,
    bytes_total: predicted.bytes_total,
    data_transferred: predicted.bytes_on_wire,
    duration: formatDuration(predicted.seconds * 1000),
    downtime: predicted.downtime_ms === null ? null : formatDuration(predicted.downtime_ms),
    basis: predicted.basis,
  };
}
