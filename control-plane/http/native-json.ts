/** The native API's JSON of a resource, and the schemas that its document shows. */
import { z } from "zod";
import type { Json } from "#kernel/fault.ts";
import type { AnyDefinition, Resource } from "../resources/definition.ts";

// Only the shape: the service checks names and labels, for all APIs alike.
export const nameSchema = z.string().min(1).max(255);
export const labelsSchema = z.record(z.string(), z.string());
export const labelsPatchSchema = z.record(z.string(), z.string().nullable());

const problem = z.object({
  reason: z.string(),
  message: z.string(),
  stuck: z.boolean(),
  generation: z.int(),
  since: z.string(),
});

const placement = z.object({
  host_id: z.string(),
  provider: z.string(),
  region: z.string(),
  zone: z.string(),
});

/** Schema of a resource of this kind, as answers carry it. */
export const resourceSchema = (kind: AnyDefinition) =>
  z.object({
    id: z.string(),
    kind: z.literal(kind.kind),
    project: z.string(),
    name: z.string(),
    labels: z.record(z.string(), z.string()),
    generation: z.int().describe("counts the changes its owner made"),
    observed_generation: z.int().describe("the change that has been carried out"),
    phase: z.enum(kind.phases as readonly [string, ...string[]]),
    problem: problem.nullable(),
    spec: kind.spec,
    status: kind.status.nullable(),
    placement: placement.nullable(),
    created_at: z.iso.datetime(),
    updated_at: z.iso.datetime(),
    deleting_at: z.iso.datetime().nullable(),
  });

export const listSchema = (item: z.ZodType) =>
  z.object({
    items: z.array(item),
    total: z.int().describe("all that match, whatever the page"),
    next_cursor: z.string().nullable(),
  });

/** A resource as the native API shows it. The scheduler's explanation has a path of its own. */
export function toNative(r: Resource): { readonly [name: string]: Json } {
  return {
    id: r.id,
    kind: r.kind,
    project: r.project,
    name: r.name,
    labels: r.labels,
    generation: r.generation,
    observed_generation: r.observedGeneration,
    phase: r.phase,
    problem: r.problem ? { ...r.problem } : null,
    spec: r.desired as Json,
    status: (r.observed ?? null) as Json,
    placement: r.placement
      ? {
          host_id: r.placement.host_id,
          provider: r.placement.provider,
          region: r.placement.region,
          zone: r.placement.zone,
        }
      : null,
    created_at: r.createdAt.toISOString(),
    updated_at: r.updatedAt.toISOString(),
    deleting_at: r.deletingAt?.toISOString() ?? null,
  };
}
