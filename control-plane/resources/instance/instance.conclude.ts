/** Pure: when a migration has come to an end that is not its goal, and how that is told. */
import type { View } from "../../engine/controller.ts";
import { deriveReceipt, moveOf } from "../migration/migration.derive.ts";
import { moveTypeOf } from "../migration/migration.plan.ts";
import type { Migration, MigrationStatus } from "../migration/migration.resource.ts";
import type { Instance } from "./instance.resource.ts";
import type { MigrateInput } from "./move.ts";

/** What a migration ends with. The type is an alias because interfaces are not Json. */
export type Conclusion = {
  readonly migration: string;
  readonly reason: string;
  readonly message: string;
};

/** The open migration that can go no further, if there is one. Looked at while no operation is under way. */
export function decideConclusion({
  resource,
  requests,
  lastOperation,
}: View<Instance>): Conclusion | undefined {
  const [request] = requests as readonly Migration[];
  if (!request) return undefined;
  const end = (reason: string, message: string) => ({ migration: request.id, reason, message });
  const { migration } = (lastOperation?.input ?? {}) as Partial<MigrateInput>;
  if (lastOperation?.name === "migrate" && migration === request.id) {
    const { reason = "INTERNAL", message = "it did not come to its end" } = lastOperation.error ?? {};
    // Its owner was quicker: the move begins once that is done.
    if (lastOperation.status !== "undone" || reason !== "INSTANCE_CHANGED") return end(reason, message);
  }
  if (request.desired.cancel) return end("CANCELLED", "it was cancelled");
  if (resource.deletingAt) return end("CANCELLED", "the instance is being deleted");
  const { problem } = resource;
  if (problem?.stuck && problem.generation >= resource.generation)
    return end(problem.reason, problem.message);
  return undefined;
}

/** The status of a migration that ended before its goal, with what it had cost by then. */
export function concludedStatus(
  { resource, incarnations }: View<Instance>,
  migration: Migration,
  error: { readonly reason: string; readonly message: string },
  now: number,
): MigrationStatus {
  const at = new Date(now).toISOString();
  const status = migration.observed ?? neverBegun(resource, migration, at);
  const [sent, received] = [status.source, status.target].map((site) =>
    moveOf(
      incarnations.find(({ hostId }) => hostId === site?.host_id),
      migration.id,
    ),
  );
  return {
    ...status,
    stage: error.reason === "CANCELLED" ? "cancelled" : "failed",
    waiting_for: null,
    waiting_since: null,
    error,
    receipt: deriveReceipt(status, sent, received, now, undefined),
    ended_at: at,
  };
}

function neverBegun(
  { placement, desired, observed }: Instance,
  migration: Migration,
  at: string,
): MigrationStatus {
  const { host_id = "", provider = "", region = "" } = placement ?? {};
  return {
    stage: "preparing",
    type: moveTypeOf({ desired, observed }, migration.desired),
    source: { host_id, provider, region },
    target: null,
    waiting_for: null,
    waiting_since: null,
    progress: null,
    receipt: null,
    error: null,
    started_at: at,
    committed_at: null,
    ended_at: null,
  };
}
