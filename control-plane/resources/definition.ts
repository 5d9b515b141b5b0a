/**
 * A kind of resource as data. Everything that is the same for all kinds (storage, authorisation,
 * lists, watch, wait, routes, OpenAPI, SDK) derives from this and from nothing else.
 *
 * Specs and statuses are written as they are spoken: the stored JSON, the native API's JSON and the
 * type below are one shape, in snake_case, with units in the names.
 */
import type { z } from "zod";
import type { Json } from "#kernel/fault.ts";
import type { Role } from "#kernel/ctx.ts";

/** What one must be to do something: of a role in one's own project, or an administrator of the cloud. */
export type Access = Role | "cloud-admin";

/** Why a resource does not get where it should. `stuck`: nothing more is tried until its owner changes it. */
export interface Problem {
  readonly reason: string;
  readonly message: string;
  readonly stuck: boolean;
  /** The generation that met it; a later one starts afresh. */
  readonly generation: number;
  readonly since: string;
}

/** Where the scheduler put it and how it came to choose; the explanation is the scheduler's own record. */
export interface Placement {
  readonly host_id: string;
  readonly provider: string;
  readonly region: string;
  readonly zone: string;
  readonly explanation: Json;
}

export interface Resource<Spec = unknown, Status = unknown, Phase extends string = string> {
  readonly id: string;
  readonly kind: string;
  readonly project: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Username of whoever made it; empty for what came by itself. */
  readonly owner: string;
  readonly generation: number;
  readonly observedGeneration: number;
  readonly desired: Spec;
  readonly observed: Status | undefined;
  /** Ids of the resources that the spec names, by the name of the reference. */
  readonly refs: Readonly<Record<string, string>>;
  readonly placement: Placement | undefined;
  readonly problem: Problem | undefined;
  readonly phase: Phase;
  readonly hostId: string | undefined;
  readonly revision: number;
  readonly schemaVersion: number;
  readonly createdAt: Date;
  readonly updatedAt: Date;
  readonly deletingAt: Date | undefined;
}

/** What a phase may be computed from. */
export type PhaseInput<Spec, Status> = Pick<
  Resource<Spec, Status>,
  "desired" | "observed" | "generation" | "observedGeneration" | "problem" | "hostId" | "deletingAt"
>;

export interface Verb<Spec, Status, Phase extends string, Input = unknown> {
  readonly summary: string;
  /** Phases in which it is allowed; elsewhere it is a `conflict`. */
  readonly when: readonly Phase[];
  readonly input: z.ZodType<Input>;
  /** The new desired state. Never an effect. May throw `invalid` or `conflict`. */
  apply(resource: Resource<Spec, Status, Phase>, input: Input): Spec;
}

export interface Reference {
  /** The kind referred to; looked up by id, name or alias in the project and in the root project. */
  readonly kind: string;
  /** The spec's field that holds the id, name or alias. */
  readonly field: string;
  /** The field within it, where that is an object; other forms of it refer to nothing. */
  readonly within?: string;
  /** Present: what another reference, declared before this one, has found refers to it by this name, if it does. */
  readonly through?: readonly [reference: string, name: string];
  /** True: never one that belongs to the root project. */
  readonly own?: true;
  /** True: it may go away all the same; the engine sees it for as long as it is there. */
  readonly weak?: true;
  /** Present: a name that nothing has, or only what this does not take, stands for itself. */
  readonly takes?: (resource: Resource) => boolean;
  /** True: `derive` takes over what it holds, so nothing keeps it from going away afterwards. */
  readonly copied?: true;
}

/** Where something is asked to be; null leaves it to the scheduler. */
export interface Site {
  readonly provider: string | null;
  readonly region: string | null;
}

export interface Filter {
  readonly summary: string;
  /** Where the value is, as a path into the stored row. */
  readonly path:
    readonly ["desired" | "observed" | "placement" | "labels" | "refs", string] | readonly ["owner"];
  /** True: a dot and a dash are the same. */
  readonly loose?: true;
}

/** A secret that is made at creation when the spec does not bring its counterpart, and shown in that one answer. */
export interface Shown<Spec> {
  readonly summary: string;
  /** Undefined: the spec has all it needs. */
  make(spec: Spec): { readonly spec: Spec; readonly secret: string } | undefined;
}

/** What an example of a kind is made of; the rest is the same for all kinds. */
export interface Example<Status = unknown> {
  readonly name: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** As a caller would give it. */
  readonly spec: Json;
  readonly status?: Status;
  readonly placement?: Placement;
}

export interface ResourceDefinition<Spec = unknown, Status = unknown, Phase extends string = string> {
  readonly kind: string;
  readonly plural: string;
  /** The first is canonical; the others are accepted. */
  readonly idPrefixes: readonly [string, ...string[]];
  readonly summary: string;
  /**
   * `project`: seen in its own project only. `shared`: those of the root project are seen in all.
   * `cloud`: kept in the root project, seen in all. `directory`: seen in its own project, and all of
   * them by the cloud's administrators.
   */
  readonly scope: "project" | "shared" | "cloud" | "directory";
  /** True: one of them is a project, and belongs to itself. */
  readonly isProject?: true;
  /** Ids that do not look like ids: those of what there is from the beginning. */
  readonly wellKnownIds?: readonly string[];
  /** True: what is called so in other places cannot be called otherwise later. */
  readonly fixedName?: true;
  /** Full spec, defaults filled in. A strict object: unknown fields are refused by name. */
  readonly spec: z.ZodType<Spec>;
  readonly status: z.ZodType<Status>;
  /** Spec fields that no caller may give at creation: routes of their own do, or `shownOnce`. */
  readonly withheld?: readonly string[];
  /** Spec fields that never change after creation. */
  readonly immutable: readonly string[];
  readonly phases: readonly Phase[];
  phase(input: PhaseInput<Spec, Status>): Phase;
  /** Which phases may follow; anything else raises an alarm but loses no report. */
  readonly next: Readonly<Record<Phase, readonly Phase[]>>;
  /** Phases that `?wait` ends in. */
  readonly settled: readonly Phase[];
  readonly verbs: Readonly<Record<string, Verb<Spec, Status, Phase>>>;
  readonly references: Readonly<Record<string, Reference>>;
  /**
   * Name of the reference to the resource whose own pass carries this one out: a request. One of them may be
   * open per resource; it ends in a settled phase, stays readable, and keeps nobody from being deleted.
   */
  readonly requestOf?: string;
  /** Phases of that other resource in which a request may be opened. */
  readonly requestWhen?: readonly string[];
  /** What the host of that other resource must be able to do, and the reason given when it is not. */
  requestNeeds?(
    spec: Spec,
    target: Resource,
  ): { readonly capability: string; readonly reason: string } | undefined;
  /** Phases in which the spec changes by verbs only. */
  readonly frozenIn?: readonly Phase[];
  readonly filters: Readonly<Record<string, Filter>>;
  /** What one of them counts against its project's quota, by the quota's name: 1, or a field of the spec. */
  readonly quota?: Readonly<Record<string, 1 | string>>;
  /** Which of create, update and delete the public API offers, and what each takes. */
  readonly access: Readonly<Partial<Record<"create" | "update" | "delete", Access>> & { read: Access }>;
  /** True when the engine has something to do for it beyond storing it. */
  readonly reconciled: boolean;
  /** Names are unique in a project. */
  readonly uniqueNames: boolean;
  /** Table or view the rows are read from. Default: `resource`. */
  readonly source?: "resource" | "operation_resource" | "departed_resource";
  /** True: for an hour after it has gone, it can be read as it was last; see {@link departed}. */
  readonly lingers?: true;
  readonly schemaVersion: number;
  /** For the documents of the APIs. */
  readonly example?: Example<Status>;
  /** What is shown once, by the name that the answer gives it. */
  readonly shownOnce?: Readonly<Record<string, Shown<Spec>>>;
  /** Status that follows from the spec alone, for kinds that nobody reports on. */
  initial?(spec: Spec): Status;
  /**
   * The spec with what follows from the resources that it names. Pure; may throw `invalid`.
   * @param given the fields that the caller gave
   * @param referred by the name of the reference; at a change only those that it names anew
   */
  derive?(
    spec: Spec,
    given: Readonly<Record<string, unknown>>,
    referred: Readonly<Record<string, Resource>>,
    previous: Spec | undefined,
  ): Spec;
  /** Checks across fields that a schema cannot say; throws `invalid`. */
  validate?(next: Spec, previous: Spec | undefined): void;
  /** Whether the spec asks for a site; one that no host is in is refused with the list of those there are. */
  site?(spec: Spec): Site;
}

/** Declares a kind; the types of spec, status and phases are inferred. */
export function defineResource<Spec, Status, const Phase extends string>(
  definition: ResourceDefinition<Spec, Status, Phase>,
): ResourceDefinition<Spec, Status, Phase> {
  return definition;
}

/** A definition whose types have been forgotten, as registries hold them. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any -- variance: phase() and verbs take the kind's own types
export type AnyDefinition = ResourceDefinition<any, any, any>;

/** The kind as a list of those that have gone, of kinds that linger. All are in the phase `deleted`. */
export const departed = (definition: AnyDefinition): AnyDefinition => ({
  ...definition,
  source: "departed_resource",
});

/** Declares a verb with its input's type inferred. */
export function defineVerb<Spec, Status, Phase extends string, Input>(
  verb: Verb<Spec, Status, Phase, Input>,
): Verb<Spec, Status, Phase> {
  return verb;
}
