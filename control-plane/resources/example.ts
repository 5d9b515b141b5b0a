/** One of a kind as the documents of the APIs show it. */
import type { AnyDefinition, Resource } from "./definition.ts";

/** Such as ids are; the same for all kinds, so that the same thing is recognised in every API. */
const suffix = "1m7zk3q9x4v8c2b6n5d0";
const createdAt = new Date("2026-01-15T10:30:00Z");
const updatedAt = new Date("2026-01-15T10:31:20Z");

/** The example of a kind as a resource; undefined when it has none. */
export function exampleOf(definition: AnyDefinition): Resource | undefined {
  const { example, idPrefixes, kind, spec, schemaVersion } = definition;
  if (!example) return undefined;
  const resource = {
    ...{ kind, createdAt, updatedAt, schemaVersion },
    id: `${idPrefixes[0]}-${suffix}`,
    project: "root",
    name: example.name,
    labels: example.labels ?? {},
    owner: "admin",
    generation: 1,
    observedGeneration: 1,
    desired: spec.parse(example.spec) as unknown,
    observed: example.status as unknown,
    refs: {},
    placement: example.placement,
    problem: undefined,
    hostId: example.placement?.host_id,
    revision: 3,
    deletingAt: undefined,
  };
  return { ...resource, phase: definition.phase(resource) as string };
}
