/** What the steps of a migration have in common: what is known of it, and how the two hosts are told. */
import { create } from "@bufbuild/protobuf";
import { MoveRole, MoveSchema, MoveType, OnUnreachable } from "#gen/skerry/agent/v1/migration_pb.js";
import { Power, type MachineSpec } from "#gen/skerry/agent/v1/machine_pb.js";
import { Fault } from "#kernel/fault.ts";
import type {
  Effects,
  Incarnation,
  MachineObservation,
  OperationRecord,
  StepResult,
  View,
} from "../../engine/controller.ts";
import type { MoveObservation } from "../../engine/move.ts";
import { moveOf } from "../migration/migration.derive.ts";
import type { Migration, MigrationSpec, MigrationStatus } from "../migration/migration.resource.ts";
import type { Placement } from "../definition.ts";
import { sendSpec, specOf } from "./instance.actions.ts";
import type { Instance } from "./instance.resource.ts";

export interface MigrateInput {
  readonly migration: string;
  readonly generation: number;
}

/** What the step `place` puts down, for all that come after it. */
export interface MovePlan {
  readonly type: MigrationStatus["type"];
  readonly source: string;
  readonly target: Placement;
  /** Base64 of what opens the channels. */
  readonly ticket: string;
  readonly expires_at_ms: number;
  /** Where the target reaches the source. */
  readonly peer_address: string;
  readonly machine_type: string;
  readonly cpu_model: string;
  /** The migration since which the source knows what was written to its disks; absent: none. */
  readonly baseline?: string;
}

/** What the step `prepare` puts down. */
export interface Prepared {
  /** The migration since which the disks were kept that the target has taken; empty: they are new. */
  readonly baseline: string;
}

/** A migration under way as one pass sees it. */
export interface MoveView {
  readonly migration: Migration;
  readonly plan: MovePlan;
  readonly source: Incarnation | undefined;
  readonly target: Incarnation | undefined;
  /** What the two say of this migration. */
  readonly sent: MoveObservation | undefined;
  readonly received: MoveObservation | undefined;
  readonly prepared: Prepared | undefined;
}

/** A host that stays away for so long is not waited for: `target` when all that it has to do is to forget. */
export const awayLimitMs = { before: 5 * 60_000, target: 30_000, postCopy: 10 * 60_000, never: Infinity };
const awayPauseMs = 2_000;
/** Hosts tell of progress twice a second; one that says nothing new for so long is stuck. */
const stallLimitMs = 10 * 60_000;
export const lookAgainMs = 15_000;

/** The open request that an operation carries out. */
export function migrationOf(view: View<Instance>, operation: OperationRecord): Migration {
  const { migration: id } = operation.input as unknown as MigrateInput;
  const migration = view.requests.find((request) => request.id === id);
  if (!migration)
    throw new Fault("conflict", "the migration is no longer open", { reason: "MIGRATION_ENDED" });
  return migration as Migration;
}

/** Throws `conflict` CANCELLED when its owner has called it off. */
export function refuseCancelled({ desired }: Migration): void {
  if (desired.cancel) throw new Fault("conflict", "it was cancelled", { reason: "CANCELLED" });
}

export function moveView(view: View<Instance>, operation: OperationRecord): MoveView {
  const migration = migrationOf(view, operation);
  const plan = operation.outputs["place"] as unknown as MovePlan;
  const source = view.incarnations.find(({ hostId }) => hostId === plan.source);
  const target = view.incarnations.find(({ hostId }) => hostId === plan.target.host_id);
  const [sent, received] = [moveOf(source, migration.id), moveOf(target, migration.id)];
  const prepared = (operation.outputs["prepare"] ?? undefined) as unknown as Prepared | undefined;
  return { migration, plan, source, target, sent, received, prepared };
}

/** Throws what either host said went wrong, or what can be seen to have gone wrong. */
export function refuseFailed({ source, target, sent, received }: MoveView): void {
  if (source?.state === "absent") throw lost("SOURCE_LOST", "the host no longer has the instance");
  if (target?.state === "absent" && received) throw lost("TARGET_LOST", "the target lost what had arrived");
  for (const move of [sent, received]) if (move) refuseFailure(move);
}

/** Throws the reason of a move that a host reports as failed. */
export function refuseFailure(move: MoveObservation): void {
  if (move.phase !== "failed") return;
  throw new Fault("conflict", move.message || "the move failed", { reason: move.reason || "MOVE_FAILED" });
}

/** Throws `conflict` MOVE_STALLED when a host has told nothing new for long. */
export function refuseStalled(incarnation: Incarnation | undefined, now: number): void {
  if (!incarnation || now - incarnation.updatedAt.getTime() < stallLimitMs) return;
  throw new Fault("conflict", "nothing has moved for long", { reason: "MOVE_STALLED" });
}

const lost = (reason: string, message: string) => new Fault("conflict", message, { reason });

/** Gives what a step answers while a host is away, having told the owner; undefined when it is here. */
export async function awaitHost(
  effects: Effects,
  migration: Migration,
  hostId: string,
  limitMs: number,
): Promise<Extract<StepResult, { wait: number }> | undefined> {
  const { observed } = migration;
  const waiting = observed?.waiting_for ?? null;
  if (effects.agents.connected().includes(hostId)) {
    if (waiting !== null) await setWaiting(effects, migration.id, null);
    return undefined;
  }
  const why = `host ${hostId} is not connected`;
  if (waiting !== why) await setWaiting(effects, migration.id, why, new Date(effects.now()).toISOString());
  const since = waiting === why ? Date.parse(observed?.waiting_since ?? "") : effects.now();
  if (effects.now() - since > limitMs) {
    throw new Fault("conflict", why, { reason: "HOST_LOST", detail: { host_id: hostId } });
  }
  const elsewhere = (await effects.findHost(hostId))?.online;
  return { wait: effects.now() + awayPauseMs, why, ...(elsewhere && { hostId }) };
}

function setWaiting(effects: Effects, id: string, why: string | null, since: string | null = null) {
  return effects.write((writes) =>
    writes.changeRequest(id, (request) => {
      const observed = request.observed as MigrationStatus | undefined;
      return observed && { ...observed, waiting_for: why, waiting_since: since };
    }),
  );
}

type Role = ({ readonly role: "source"; readonly switchOver: boolean } | { readonly role: "destination" }) & {
  readonly committed?: boolean;
};

/** The instance's spec as it is sent to one of the hosts while it moves. */
export function movingSpec(view: View<Instance>, move: MoveView, role: Role): MachineSpec {
  const { migration, plan } = move;
  const spec = specOf(view);
  const { desired } = migration;
  const source = role.role === "source";
  // Cold is a move of a machine that is off; what its owner wants comes with the end of the move.
  if (plan.type === "cold") spec.power = Power.OFF;
  spec.move = create(MoveSchema, {
    migrationId: migration.id,
    role: source ? MoveRole.SOURCE : MoveRole.DESTINATION,
    type: moveTypes[plan.type],
    peerHostId: source ? plan.target.host_id : plan.source,
    peerAddress: source ? "" : plan.peer_address,
    ticket: Buffer.from(plan.ticket, "base64"),
    expiresAtMs: BigInt(plan.expires_at_ms),
    switchOver: source && role.switchOver,
    maxDowntimeMs: desired.max_downtime_ms,
    onUnreachable: policies[desired.on_unreachable],
    bandwidthLimit: BigInt(desired.bandwidth_limit ?? 0),
    wanOptimization: desired.wan_optimization,
    machineType: plan.machine_type,
    cpuModel: plan.cpu_model,
    guestShape: source ? "" : guestShapeOf(move.source),
    // The target is asked to take what it may have kept; the source is told what it has taken, and nothing else.
    baseline: (source ? move.prepared?.baseline : plan.baseline) ?? "",
    committed: role.committed ?? false,
  });
  return spec;
}

/** How the source's host says that it has built the machine; empty when that is off. */
function guestShapeOf(source: Incarnation | undefined): string {
  return wordOf(source, "guest_shape");
}

/** The migration since which a host knows what was written to the disks; empty: none. */
export function baselineOf(incarnation: Incarnation | undefined): string {
  return wordOf(incarnation, "disk_baseline");
}

function wordOf(incarnation: Incarnation | undefined, field: string): string {
  const word = incarnation?.observed[field];
  return typeof word === "string" ? word : "";
}

const moveTypes: Record<MigrationStatus["type"], MoveType> = {
  live: MoveType.LIVE,
  cold: MoveType.COLD,
  postcopy: MoveType.POSTCOPY,
};
const policies: Record<MigrationSpec["on_unreachable"], OnUnreachable> = {
  abort: OnUnreachable.ABORT,
  throttle: OnUnreachable.THROTTLE,
  force: OnUnreachable.FORCE,
  // It is the type of the move by then.
  postcopy: OnUnreachable.ABORT,
};

export type Answer = MachineObservation & { readonly move: MoveObservation | undefined };

/** Sends a spec, and gives the answer with what it says of this migration. */
export async function tell(
  effects: Effects,
  view: View<Instance>,
  hostId: string,
  spec: MachineSpec,
  waitMs: number,
): Promise<Answer> {
  const answer = await sendSpec(effects, view, hostId, spec, waitMs);
  return { ...answer, move: answer.observed["move"] as MoveObservation | undefined };
}

/** Stores an answer that is not the end of a step yet, and waits: for reports, at the latest for `waitMs`. */
export async function waitOn(
  effects: Effects,
  hostId: string,
  answer: MachineObservation,
  why: string,
  waitMs = lookAgainMs,
): Promise<StepResult> {
  await effects.write((writes) => writes.observeMachine(hostId, answer));
  return { wait: effects.now() + waitMs, why };
}
