import { systemPrincipal, type Ctx } from "#kernel/ctx.ts";
import { newId } from "#kernel/id.ts";
import type { Logger } from "#kernel/log.ts";
import { migration, type MigrationSpec } from "../resources/migration/migration.resource.ts";
import type { ResourceService } from "./resource-service.ts";

export interface UnaskedMoves {
  readonly resources: Pick<ResourceService, "create">;
  readonly log: Logger;
  readonly now: () => number;
}

export interface UnaskedMove {
  readonly project: string;
  readonly name: string;
  readonly spec: Pick<MigrationSpec, "instance"> & Partial<Pick<MigrationSpec, "host" | "type">>;
}

/** Asks for a migration that no user asked for: the system's own, in the project of its instance. */
export async function askUnasked(
  { resources, log, now }: UnaskedMoves,
  { project, name, spec }: UnaskedMove,
  signal: AbortSignal,
): Promise<void> {
  const principal = { ...systemPrincipal, project };
  const ctx: Ctx = { log, now, principal, requestId: newId("req"), signal };
  const respond = () => ({ status: 201, headers: {}, body: null });
  await resources.create(ctx, migration, { name, spec }, { respond });
}
