/**
 * Runs operations: ordered steps, each recorded by name when it is done, in the same transaction as
 * what it commits. A failure before the point of no return undoes the failed step and then those before
 * it, backwards; after it the operation only goes forward. A replica may die between any two lines: the
 * next one continues from the record, so every step and every undo may run twice.
 */
import { Fault, toFault, type Json } from "#kernel/fault.ts";
import { newId } from "#kernel/id.ts";
import { backoffMs } from "#kernel/retry.ts";
import type { Tx } from "../store/database.ts";
import type {
  Effects,
  Operation,
  OperationError,
  OperationRecord,
  Reserved,
  Step,
  StepResult,
  View,
} from "./controller.ts";
import type { FencedWrites } from "./writes.ts";

/** Tries of one step (or undo) that keeps failing in a retryable way before it counts as failed. */
const stepAttempts = 6;
const backoff = { baseMs: 200, capMs: 15_000 };

export type Progress =
  /** With how all is now, where that need not be looked at. */
  | { readonly go: "on"; readonly view?: View | undefined }
  | {
      readonly go: "wait";
      readonly until: number;
      readonly why: string;
      readonly hostId?: string | undefined;
    };

export interface OperationEffects extends Effects {
  /** A fenced transaction that also gives the engine's own tables. */
  writeRecord<T>(work: (writes: FencedWrites) => Promise<T>): Promise<T>;
  /** What the pass was promised last. */
  promised(): Reserved | undefined;
}

/**
 * Begins an operation; a first step without effects is run and recorded in the very same transaction.
 * @returns how all is now, where that need not be looked at
 */
export async function startOperation(
  effects: OperationEffects,
  view: View,
  operation: Operation,
  input: Json,
): Promise<View | undefined> {
  const record: OperationRecord = {
    id: newId("op"),
    name: operation.name,
    version: operation.version,
    status: "running",
    input,
    error: undefined,
    attempt: 0,
    createdAt: new Date(effects.now()),
    outputs: {},
    done: [],
    undone: [],
  };
  const first = operation.steps[0];
  const result = first?.effectFree ? await tryStep(first, effects, view, record) : undefined;
  return effects.writeRecord(async (writes) => {
    if (!result || !first || (!(result instanceof Fault) && !("done" in result))) {
      postRecord(writes.tx, view, record);
      return undefined;
    }
    if (result instanceof Fault) {
      postRecord(writes.tx, view, { ...record, status: "undoing", error: toOperationError(result) });
      return undefined;
    }
    const output = (await result.commit?.(writes)) ?? result.done;
    const next = afterStep(operation, record, first, output);
    postRecord(writes.tx, view, next, first.name);
    return follow(writes, effects, view, next);
  });
}

/** Stores a new operation, and the step that it begins with when that is done. */
function postRecord(
  tx: Tx,
  { resource }: View,
  { id, name, version, status, input, error, outputs }: OperationRecord,
  step?: string,
): void {
  tx.post(
    `with begun as (
       insert into operation (id, name, version, resource_id, kind, project, status, input, error, ended_at)
       values ($1, $2, $3, $4, $5, $6, $7, $8, $9, case when $7 = 'done' then now() end))
     insert into operation_step (operation_id, name, position, status, output)
     select $1, $10, 0, 'done', $11 where $10::text is not null`,
    [
      ...[id, name, version, resource.id, resource.kind, resource.project, status, JSON.stringify(input)],
      ...[error ? JSON.stringify(error) : null, step ?? null],
      step === undefined ? null : JSON.stringify(outputs[step]),
    ],
    "operation_insert",
  );
}

/** Takes the operation one step on (or back). */
export async function advanceOperation(
  effects: OperationEffects,
  view: View,
  operation: Operation,
): Promise<Progress> {
  const record = view.operation;
  if (!record) throw new Fault("internal", "there is no operation to advance");
  if (record.status === "undoing") return undoNext(effects, view, operation, record);
  const step = operation.steps.find((candidate) => !record.done.includes(candidate.name));
  if (!step) return finish(effects, record, "done");
  const undoable = !isCommitted(operation, record);
  if (view.resource.deletingAt && undoable) {
    return turnBack(effects, record, {
      code: "conflict",
      reason: "CANCELLED",
      message: "it is being deleted",
    });
  }
  const result = await tryStep(step, effects, view, record);
  if (result instanceof Fault) return stepFailed(effects, view, record, result, undoable);
  if ("wait" in result) return { go: "wait", until: result.wait, why: result.why, hostId: result.hostId };
  let next: View | undefined;
  try {
    next = await effects.writeRecord((writes) =>
      commitStep({ writes, effects, view }, operation, record, step, result),
    );
  } catch (error) {
    const fault = toFault(error);
    if (fault.code !== "exhausted" && fault.code !== "conflict") throw error;
    return stepFailed(effects, view, record, fault, undoable);
  }
  await result.ahead?.().catch((error: unknown) => {
    effects.log.info("operation.ahead_failed", { operation: record.id, step: step.name, error });
  });
  return { go: "on", view: result.ahead ? undefined : next };
}

async function tryStep(
  step: Step,
  effects: Effects,
  view: View,
  record: OperationRecord,
): Promise<StepResult | Fault> {
  try {
    return await step.run(effects, view, record);
  } catch (error) {
    const fault = toFault(error);
    if (fault.code === "stale") throw fault;
    return fault;
  }
}

async function stepFailed(
  effects: OperationEffects,
  view: View,
  record: OperationRecord,
  fault: Fault,
  undoable: boolean,
): Promise<Progress> {
  const error = toOperationError(fault);
  const worthwhile = fault.retryable || fault.code === "internal";
  if ((worthwhile && record.attempt + 1 < stepAttempts) || (!undoable && worthwhile)) {
    return tryAgainLater(effects, record, error);
  }
  if (undoable) return turnBack(effects, record, error);
  if (fault.code === "exhausted") return untilThereIsRoom(effects, view, record, fault, error);
  return giveUp(effects, view, record, error);
}

async function undoNext(
  effects: OperationEffects,
  view: View,
  operation: Operation,
  record: OperationRecord,
): Promise<Progress> {
  const step = nextToUndo(operation, record);
  if (!step) return finish(effects, record, "undone");
  let result: StepResult = { done: null };
  try {
    if (step.undo) result = await step.undo(effects, view, record, record.outputs[step.name]);
  } catch (error) {
    const fault = toFault(error);
    if (fault.code === "stale") throw fault;
    if (fault.retryable) return tryAgainLater(effects, record, record.error);
    if (fault.code === "exhausted") return untilThereIsRoom(effects, view, record, fault, record.error);
    return giveUp(effects, view, record, { ...toOperationError(fault), reason: "UNDO_FAILED" });
  }
  if ("wait" in result) return { go: "wait", until: result.wait, why: result.why, hostId: result.hostId };
  const { commit } = result;
  await effects.writeRecord(async (writes) => {
    await commit?.(writes);
    recordStep(writes.tx, operation, record, step, "undone", record.outputs[step.name] ?? null);
  });
  return { go: "on" };
}

/**
 * What a full host has to do, since there is no other way, it does once there is room; until then its owner sees why.
 * @param error what the record says meanwhile: of an operation that is undone, why it is
 */
async function untilThereIsRoom(
  effects: OperationEffects,
  view: View,
  record: OperationRecord,
  { reason, message }: Fault,
  error: OperationError | undefined,
): Promise<Progress> {
  const since = new Date(effects.now()).toISOString();
  const { generation } = view.resource;
  const problem = { reason, message, stuck: false, generation, since };
  return tryAgainLater(effects, record, error, (writes) => writes.setProblem(problem));
}

/** Backwards: first the step that did not finish, whose effects may be half there, then those that did. */
function nextToUndo(operation: Operation, record: OperationRecord): Step | undefined {
  const finished = record.done.length;
  return operation.steps[record.undone.length === 0 ? finished : finished - 1];
}

function isCommitted(operation: Operation, record: OperationRecord): boolean {
  return operation.steps.some((step) => step.pointOfNoReturn && record.done.includes(step.name));
}

/** @returns how all is once this is committed, where that need not be looked at */
async function commitStep(
  { writes, effects, view }: { writes: FencedWrites; effects: OperationEffects; view: View },
  operation: Operation,
  record: OperationRecord,
  step: Step,
  result: Extract<StepResult, { done: Json }>,
): Promise<View | undefined> {
  const output = (await result.commit?.(writes)) ?? result.done;
  recordStep(writes.tx, operation, record, step, "done", output);
  return follow(writes, effects, view, afterStep(operation, record, step, output));
}

function afterStep(operation: Operation, record: OperationRecord, step: Step, output: Json): OperationRecord {
  return {
    ...record,
    status: step === operation.steps.at(-1) ? "done" : record.status,
    attempt: 0,
    outputs: { ...record.outputs, [step.name]: output },
    done: [...record.done, step.name],
  };
}

function follow(
  writes: FencedWrites,
  effects: OperationEffects,
  view: View,
  record: OperationRecord,
): View | undefined {
  const next = writes.follow(view);
  if (!next) return undefined;
  const promised = effects.promised();
  const reserved = promised ? [promised] : next.reserved;
  if (record.status === "running") return { ...next, reserved, operation: record };
  return { ...next, reserved, operation: undefined, lastOperation: record };
}

/** Stores a step's outcome; the last step that is done ends the operation with it. */
function recordStep(
  tx: Tx,
  operation: Operation,
  record: OperationRecord,
  step: Step,
  status: "done" | "undone",
  output: Json,
): void {
  const ends = status === "done" && step === operation.steps.at(-1);
  tx.post(
    `with step as (
       insert into operation_step (operation_id, name, position, status, output) values ($1, $2, $3, $4, $5)
       on conflict (operation_id, name) do update set status = $4, output = $5, updated_at = now())
     update operation set attempt = 0, updated_at = now(), status = case when $6 then 'done' else status end,
       ended_at = case when $6 then now() end where id = $1`,
    [record.id, step.name, operation.steps.indexOf(step), status, JSON.stringify(output), ends],
    "operation_step",
  );
}

async function tryAgainLater(
  effects: OperationEffects,
  record: OperationRecord,
  error: OperationError | undefined,
  along?: (writes: FencedWrites) => Promise<void>,
): Promise<Progress> {
  await effects.writeRecord(async (writes) => {
    await along?.(writes);
    await writes.tx.query(
      "update operation set attempt = attempt + 1, error = $2, updated_at = now() where id = $1",
      [record.id, JSON.stringify(error ?? null)],
    );
  });
  return {
    go: "wait",
    until: effects.now() + backoffMs(record.attempt, backoff),
    why: error?.message ?? "a step is tried again",
  };
}

async function turnBack(
  effects: OperationEffects,
  record: OperationRecord,
  error: OperationError,
): Promise<Progress> {
  await effects.writeRecord(async ({ tx }) => setStatus(tx, record.id, "undoing", error));
  return { go: "on" };
}

/** Neither forward nor back: the operation stays visible as failed and so does the resource's problem. */
async function giveUp(
  effects: OperationEffects,
  { resource }: View,
  record: OperationRecord,
  error: OperationError,
): Promise<Progress> {
  effects.log.error("operation.failed", { operation: record.id, name: record.name, ...error });
  const { reason, message } = error;
  const since = new Date(effects.now()).toISOString();
  await effects.writeRecord(async (writes) => {
    setStatus(writes.tx, record.id, "failed", error);
    await writes.setProblem({ reason, message, stuck: true, generation: resource.generation, since });
  });
  return { go: "on" };
}

async function finish(
  effects: OperationEffects,
  record: OperationRecord,
  status: "done" | "undone",
): Promise<Progress> {
  await effects.writeRecord(async ({ tx }) => setStatus(tx, record.id, status, record.error));
  return { go: "on" };
}

function setStatus(
  tx: Tx,
  id: string,
  status: OperationRecord["status"],
  error: OperationError | undefined,
): void {
  tx.post(
    `update operation set status = $2, error = coalesce($3, error), attempt = 0, updated_at = now(),
       ended_at = case when $2 in ('done', 'undone', 'failed') then now() end where id = $1`,
    [id, status, error ? JSON.stringify(error) : null],
    "operation_status",
  );
}

function toOperationError(fault: Fault): OperationError {
  return { code: fault.code, reason: fault.reason, message: fault.message };
}
