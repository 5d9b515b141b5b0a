/**
 * What a compatible public API consists of: kinds mapped by pure functions, and the conventions that
 * all its answers share. A dialect knows the resources; no resource knows a dialect.
 */
import type { z } from "zod";
import type { CreateInput, UpdateInput } from "../app/resource-api.ts";
import type { Resource, ResourceDefinition } from "../resources/definition.ts";

/** One kind as a dialect shows it. */
export interface DialectKind<Spec, Status, Phase extends string, Wire, Create, Update> {
  readonly definition: ResourceDefinition<Spec, Status, Phase>;
  /** The dialect's own prefix of ids; any other of the kind's is accepted as well. */
  readonly idPrefix: string;
  /** Exhaustive: a new phase fails to compile in every dialect. */
  readonly phases: Readonly<Record<Phase, string>>;
  readonly wire: z.ZodType<Wire>;
  readonly createBody: z.ZodType<Create>;
  readonly updateBody: z.ZodType<Update>;
  /** Total, no clock, no I/O: what a body asks for in the core's words. */
  toCreate(body: Create): CreateInput;
  toUpdate(body: Update): UpdateInput;
  /** Total, no clock, no I/O. */
  encode(resource: Resource<Spec, Status, Phase>): Wire;
}

/** The core's phases that a dialect shows as `word`. */
export function phasesOf<Phase extends string>(
  table: Readonly<Record<Phase, string>>,
  word: string,
): readonly Phase[] {
  return (Object.keys(table) as Phase[]).filter((phase) => table[phase] === word);
}

/** An id with the dialect's prefix in the place of the core's. */
export function withPrefix(id: string, prefix: string): string {
  return `${prefix}${id.slice(id.indexOf("-"))}`;
}
