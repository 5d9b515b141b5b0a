/**
 * What every public API does to every kind. One implementation (`resource-service.ts`), one code path:
 * authorise, validate, idempotency key, compare-and-set, outbox event, enqueue, in one transaction.
 */
import type { Ctx } from "#kernel/ctx.ts";
import type { Json } from "#kernel/fault.ts";
import type { AnyDefinition, Resource } from "../resources/definition.ts";

/** An answer as it goes out, so that a repeated request with the same key gets the very same one. */
export interface Reply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /** Null: no body. */
  readonly body: Json;
}

/** What is shown once, by name. */
export type Shown = Readonly<Record<string, Json>>;

export interface MutationOptions {
  /** The request's `Idempotency-Key` and a digest of its method, path and body. */
  readonly idempotency?: { readonly key: string; readonly requestHash: string } | undefined;
  /** Revision from `If-Match`; another one is a `stale` fault with reason PRECONDITION_FAILED. */
  readonly ifMatch?: number | undefined;
  /**
   * Pure; called inside the transaction, so that the reply is stored with the change.
   * @param secrets what is shown once, by name: in the first answer only, which is stored sealed
   */
  respond(resource: Resource, secrets?: Shown): Reply;
}

export interface CreateInput {
  readonly name: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** Not validated yet: the service parses it with the kind's schema. */
  readonly spec: unknown;
}

export interface UpdateInput {
  readonly name?: string;
  /** Merged: null removes a label. */
  readonly labels?: Readonly<Record<string, string | null>>;
  /** These and no others: what is there keeps its value, what is new has an empty one. */
  readonly labelKeys?: readonly string[];
  /** JSON merge patch (RFC 7396) on the spec. */
  readonly spec?: unknown;
}

export interface ListQuery {
  readonly phases?: readonly string[];
  readonly name?: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** Has a label of this name. */
  readonly labelKey?: string;
  /** Part of the name, or of the id. */
  readonly search?: string;
  /** Of a shared kind: only those of the root project, or only those of a project. */
  readonly from?: "shared" | "project";
  /** By the names of the kind's filters. */
  readonly filters?: Readonly<Record<string, string>>;
  /** 1 to 1000. */
  readonly limit: number;
  /** By position (dialects) or by cursor (native), not both. */
  readonly offset?: number;
  readonly cursor?: string;
}

/** A watch is of all that match, or of one. */
export type WatchQuery = Omit<ListQuery, "limit" | "labelKey" | "search" | "from"> & { readonly id?: string };

export interface ListPage<R extends Resource = Resource> {
  readonly items: readonly R[];
  /** All that match, whatever the page. */
  readonly total: number;
  readonly nextCursor: string | undefined;
}

export type WatchEvent =
  /** First every match as it is now, then `synced`, then changes. Several changes may arrive as one. */
  | { readonly type: "present" | "changed"; readonly resource: Resource }
  | { readonly type: "synced" }
  | { readonly type: "removed"; readonly id: string };

export interface ResourceApi {
  create(ctx: Ctx, kind: AnyDefinition, input: CreateInput, options: MutationOptions): Promise<Reply>;
  get(ctx: Ctx, kind: AnyDefinition, id: string): Promise<Resource>;
  list(ctx: Ctx, kind: AnyDefinition, query: ListQuery): Promise<ListPage>;
  update(
    ctx: Ctx,
    kind: AnyDefinition,
    id: string,
    input: UpdateInput,
    options: MutationOptions,
  ): Promise<Reply>;
  delete(ctx: Ctx, kind: AnyDefinition, id: string, options: MutationOptions): Promise<Reply>;
  invoke(
    ctx: Ctx,
    kind: AnyDefinition,
    id: string,
    verb: string,
    input: unknown,
    options: MutationOptions,
  ): Promise<Reply>;
  watch(ctx: Ctx, kind: AnyDefinition, query: WatchQuery): AsyncIterable<WatchEvent>;
  /**
   * Waits until the resource has settled: its observed generation has caught up and its phase is one of
   * the kind's settled ones, or it is gone (`undefined`). After `timeoutMs`, the resource as it is then.
   */
  wait(ctx: Ctx, kind: AnyDefinition, id: string, timeoutMs: number): Promise<Resource | undefined>;
}
