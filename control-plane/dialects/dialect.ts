/**
 * What a compatible public API consists of: conventions that all its answers share, and kinds mapped by
 * pure functions. Routes and documents derive from the two (`kind-routes.ts`). A dialect knows the
 * resources; no resource knows a dialect.
 */
import type { IncomingMessage } from "node:http";
import type { z } from "zod";
import type { Ctx } from "#kernel/ctx.ts";
import type { Json } from "#kernel/fault.ts";
import type { CreateInput, ListQuery, UpdateInput } from "../app/resource-api.ts";
import type { Surface } from "../http/route.ts";
import type { Resource, ResourceDefinition } from "../resources/definition.ts";

/** The conventions of one dialect. */
export interface Dialect extends Omit<Surface, "routes"> {
  /** Before the paths of its kinds. */
  readonly base: string;
  /** What each path ends in. */
  readonly pathEnd: "" | "/";
  readonly envelope: Envelope;
  readonly paging: Paging;
}

/** What stands around the data of an answer. */
export interface Envelope {
  schema(data: z.ZodType): z.ZodType;
  wrap(data: Json, ctx: Asked["ctx"]): Json;
}

/** Query parameters of a list, as their schemas have read them. */
export type ListParameters = Readonly<Record<string, unknown>>;

/** What an answer may depend on of the request for it. */
export interface Asked {
  readonly ctx: Pick<Ctx, "requestId" | "now">;
  readonly query: ListParameters;
  readonly request: Pick<IncomingMessage, "headers" | "url">;
}

export interface PageOf {
  readonly items: readonly Json[];
  readonly total: number;
  /** The kind's plural, where a page is called by it. */
  readonly plural: string;
}

/** How lists are asked for and answered, page by page. */
export interface Paging {
  /** @param size items on a page, unless asked for otherwise */
  parameters(size: number): Readonly<Record<string, z.ZodType>>;
  range(query: ListParameters, size: number): { readonly limit: number; readonly offset: number };
  schema(item: z.ZodType, plural: string): z.ZodType;
  encode(
    page: PageOf,
    range: { readonly limit: number; readonly offset: number },
    call: Asked,
  ): { readonly body: Json; readonly headers: Readonly<Record<string, string>> };
}

/** One kind as a dialect shows it. Every function is total: no clock, no I/O; what a body gets wrong is `invalid`. */
export interface DialectKind<Spec, Status, Phase extends string, Wire extends Json, Create, Update, Query> {
  readonly definition: ResourceDefinition<Spec, Status, Phase>;
  /** Of its collection, after the dialect's base. */
  readonly path: string;
  /** What its id is called in paths. */
  readonly idName: string;
  /** The word for one in sentences. */
  readonly noun: string;
  /** The names of one and of several in the document. */
  readonly type: string;
  readonly types: string;
  /** The dialect's own prefix of ids; any other of the kind's is accepted as well. */
  readonly idPrefix: string;
  /** True: its name does in the place of its id. */
  readonly named?: true;
  /** Exhaustive: a new phase fails to compile in every dialect. */
  readonly phases: Readonly<Record<Phase, string>>;
  /** The dialect's names of the core's fields, where it has names of its own. */
  readonly fields: Readonly<Record<string, string>>;
  readonly wire: z.ZodType<Wire>;
  encode(resource: Resource<Spec, Status, Phase>): Wire;
  readonly pageSize: number;
  readonly filters: z.ZodType<Query>;
  toQuery(query: Query): Partial<Omit<ListQuery, "limit" | "offset">>;
  readonly create?: {
    readonly body: z.ZodType<Create>;
    toInput(body: Create): CreateInput;
  };
  readonly update?: { readonly body: z.ZodType<Update>; toInput(body: Update): UpdateInput };
  /** True: what has gone can be read for as long as the kind lingers, and is listed when it is asked for by its status. */
  readonly showsDeparted?: true;
  /** Whether there is a DELETE. */
  readonly deletes?: true;
  /** Bodies, for the document; what answers look like follows from the example of the definition. */
  readonly examples?: {
    readonly create?: Json;
    readonly update?: Json;
    readonly actions?: Readonly<Record<string, Json>>;
  };
  /** By the last segment of their paths. */
  readonly actions?: Readonly<Record<string, DialectAction>>;
}

/** A POST below one resource: a verb of the kind, its deletion, or a change of its spec. */
export type DialectAction =
  { readonly verb: string } | { readonly deletes: true; readonly summary: string } | ChangeAction<unknown>;

export interface ChangeAction<Body> {
  readonly summary: string;
  readonly body: z.ZodType<Body>;
  toInput(body: Body): UpdateInput;
}

/** A kind whose types have been forgotten, as the machinery holds it. */
export type AnyDialectKind = DialectKind<unknown, unknown, string, Json, unknown, unknown, unknown>;

/** An action with the type of its body inferred. */
export function changeAction<Body>(action: ChangeAction<Body>): DialectAction {
  return action;
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

/** The collection's path. */
export const collectionPath = ({ base, pathEnd }: Dialect, { path }: Pick<AnyDialectKind, "path">) =>
  `${base}${path}${pathEnd}`;

/** The path of one, or of something below it. */
export function singlePath(
  { base, pathEnd }: Dialect,
  { path, idName }: Pick<AnyDialectKind, "path" | "idName">,
  below = "",
): string {
  return `${base}${path}/{${idName}}${below === "" ? "" : `/${below}`}${pathEnd}`;
}

/** The conventions with routes: what the server takes. */
export function toSurface(dialect: Dialect, routes: Surface["routes"]): Surface {
  const { name, title, prefixes, errorSchema, errorContentType } = dialect;
  return {
    ...{ name, title, prefixes, errorSchema, errorContentType, routes },
    trailingSlash: dialect.pathEnd === "/",
    encodeFault: (fault, context) => dialect.encodeFault(fault, context),
  };
}
