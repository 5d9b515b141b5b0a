import { z } from "zod";
import type { Json } from "#kernel/fault.ts";
import { defineResource, type PhaseInput } from "../definition.ts";

export const operationSpec = z.strictObject({
  operation: z.string(),
  version: z.int(),
  resource_id: z.string(),
  resource_kind: z.string(),
});
export type OperationSpec = z.infer<typeof operationSpec>;

export const operationStatus = z.strictObject({
  error: z.custom<Json>().nullable(),
  attempt: z.int(),
  ended_at: z.string().nullable(),
  steps: z.array(z.strictObject({ name: z.string(), status: z.enum(["done", "undone"]), at: z.string() })),
});
export type OperationStatus = z.infer<typeof operationStatus>;

export const operationPhases = ["running", "undoing", "done", "undone", "failed"] as const;
export type OperationPhase = (typeof operationPhases)[number];

/** Read-only: operations are started by the engine and kept in a table of their own. */
export const operation = defineResource<OperationSpec, OperationStatus, OperationPhase>({
  kind: "operation",
  plural: "operations",
  idPrefixes: ["op"],
  summary: "Ordered work with undo, persisted step by step",
  scope: "project",
  spec: operationSpec,
  status: operationStatus,
  immutable: [],
  phases: operationPhases,
  phase: (r: PhaseInput<OperationSpec, OperationStatus>) => (r.observed?.ended_at ? "done" : "running"),
  next: { running: ["undoing", "done"], undoing: ["undone", "failed"], done: [], undone: [], failed: [] },
  settled: ["done", "undone", "failed"],
  verbs: {},
  references: {},
  filters: {
    resource: { summary: "id of the resource it works on", path: ["desired", "resource_id"] },
    operation: { summary: "name, such as create or resize", path: ["desired", "operation"] },
  },
  access: { read: "viewer" },
  reconciled: false,
  uniqueNames: false,
  source: "operation_resource",
  schemaVersion: 1,
});
