/** The resources of one kind: everything that is the same for all kinds. */
import { Fault, isFault } from "#kernel/fault.ts";
import type { KindInfo, KindTypes, Resource } from "./kinds/resource.ts";
import { Listing, type Page } from "./pages.ts";
import type { CallOptions, QueryValue, Transport } from "./transport.ts";
import { waitFor, type WaitOptions } from "./waiters.ts";
import { watchResources, type WatchEvent, type WatchOptions } from "./watch.ts";

export interface CreateBody<K extends KindTypes> {
  readonly name: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly spec: K["input"];
}

/** A merge patch: what is left out stays, null removes. */
export interface UpdateBody<K extends KindTypes> {
  readonly name?: string;
  readonly labels?: Readonly<Record<string, string | null>>;
  readonly spec?: Partial<K["input"]>;
}

export interface MutationOptions extends CallOptions {
  /** Lets the server answer only when the resource has settled, or after this long. At most 300. */
  readonly waitSeconds?: number | undefined;
  /** An ETag: the change is refused as `stale` when the resource has another one by now. */
  readonly ifMatch?: string | undefined;
  /** Repeating a call with the same key gives the first call's answer. Default: a new key. */
  readonly idempotencyKey?: string | undefined;
}

export type ListQuery<K extends KindTypes> = {
  readonly phase?: K["phase"] | readonly K["phase"][] | undefined;
  readonly name?: string | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
} & { readonly [F in K["filter"]]?: string | undefined };

export interface ListOptions extends CallOptions {
  /** Items of a page, 1 to 1000. */
  readonly pageSize?: number;
}

/** An id as all kinds write it: prefix, dash, 20 characters of base 32. */
const idPattern = /^[a-z]+-[0-9a-hjkmnp-tv-z]{20}$/;

export class Collection<K extends KindTypes> {
  readonly info: KindInfo;
  readonly #transport: Transport;

  constructor(transport: Transport, info: KindInfo) {
    this.#transport = transport;
    this.info = info;
  }

  /** Makes a new resource. It is there when this returns; `waitFor` tells when it has settled. */
  create(body: CreateBody<K>, options: MutationOptions = {}): Promise<Resource<K>> {
    return this.#mutate("POST", this.path(), body, options);
  }

  /** Gets one by id. */
  get(id: string, options: CallOptions = {}): Promise<Resource<K>> {
    return this.#transport.required({ ...options, method: "GET", path: this.path(id) });
  }

  /** Gets one together with the ETag that `ifMatch` takes. */
  async getWithETag(
    id: string,
    options: CallOptions = {},
  ): Promise<{ readonly resource: Resource<K>; readonly etag: string }> {
    const call = { ...options, method: "GET", path: this.path(id) } as const;
    const { body, headers } = await this.#transport.exchange<Resource<K>>(call);
    const etag = headers.get("etag");
    if (body && etag !== null) return { resource: body, etag };
    throw new Fault("internal", `${id} was answered without an ETag`, { reason: "ANSWER_MALFORMED" });
  }

  /**
   * Finds one by id or by name. Throws `notFound`, or `conflict` with reason AMBIGUOUS_NAME and the ids
   * when several have that name.
   */
  async find(idOrName: string, options: CallOptions = {}): Promise<Resource<K>> {
    if (idPattern.test(idOrName)) {
      try {
        return await this.get(idOrName, options);
      } catch (thrown) {
        if (!isFault(thrown, "notFound")) throw thrown; // a name may look like an id
      }
    }
    const query = { name: idOrName } as ListQuery<K>;
    const { items } = await this.list(query, { ...options, pageSize: 20 }).first();
    const [only, ...others] = items.filter((each) => each.name === idOrName);
    const noun = this.info.kind.replaceAll("_", " ");
    if (!only) throw new Fault("notFound", `there is no ${noun} ${JSON.stringify(idOrName)}`);
    if (others.length === 0) return only;
    const ids = [only, ...others].map((each) => each.id);
    throw new Fault(
      "conflict",
      `${ids.length} ${this.info.plural} are named ${idOrName}: ${ids.join(", ")}`,
      {
        reason: "AMBIGUOUS_NAME",
        detail: { ids },
      },
    );
  }

  /** Lists what matches, oldest first, page by page. */
  list(query: ListQuery<K> = {}, options: ListOptions = {}): Listing<Resource<K>> {
    const { pageSize, ...call } = options;
    return new Listing(async (cursor) => {
      const page = await this.#transport.json<Page<Resource<K>>>({
        ...call,
        method: "GET",
        path: this.path(),
        query: { ...toQuery(query), limit: pageSize, cursor },
      });
      return page ?? { items: [], total: 0, next_cursor: null };
    });
  }

  /** Changes name, labels or parts of the spec. */
  update(id: string, body: UpdateBody<K>, options: MutationOptions = {}): Promise<Resource<K>> {
    return this.#mutate("PATCH", this.path(id), body, options);
  }

  /** Deletes it. Gives what is left of it while its deletion goes on; undefined when it is gone. */
  delete(id: string, options: MutationOptions = {}): Promise<Resource<K> | undefined> {
    return this.#transport.json({ method: "DELETE", path: this.path(id), ...callOf(options) });
  }

  /** Calls a verb by name; the typed methods of a client (`instances.start(id)`) do this. */
  invoke<V extends keyof K["verbs"] & string>(
    id: string,
    verb: V,
    input: K["verbs"][V],
    options: MutationOptions = {},
  ): Promise<Resource<K>> {
    return this.#mutate("POST", `${this.path(id)}/${encodeURIComponent(verb)}`, input, options);
  }

  /** Waits until it has settled (see {@link waitFor}); undefined when it is gone. */
  waitFor(id: string, options: WaitOptions<K> = {}): Promise<Resource<K> | undefined> {
    return waitFor(this.#transport, this.info, id, options);
  }

  /** Everything that matches as it is now, then `synced`, then changes, over reconnects, until the signal aborts. */
  watch(
    query: ListQuery<K> = {},
    options: WatchOptions = {},
  ): AsyncGenerator<WatchEvent<K>, void, undefined> {
    return watchResources(this.#transport, { path: this.path(), query: toQuery(query) }, options);
  }

  /** The path of the collection, or of one of it. */
  path(id?: string): string {
    return `/skerry/v1/${this.info.plural}${id === undefined ? "" : `/${encodeURIComponent(id)}`}`;
  }

  #mutate(
    method: "POST" | "PATCH",
    path: string,
    body: unknown,
    options: MutationOptions,
  ): Promise<Resource<K>> {
    return this.#transport.required({ method, path, body, ...callOf(options) });
  }
}

function callOf(options: MutationOptions) {
  const { waitSeconds, ifMatch, idempotencyKey, signal, timeoutMs } = options;
  return {
    query: { wait: waitSeconds },
    headers: ifMatch === undefined ? {} : { "if-match": ifMatch },
    idempotencyKey,
    signal,
    timeoutMs: timeoutMs ?? 30_000 + (waitSeconds ?? 0) * 1000,
  };
}

function toQuery<K extends KindTypes>(query: ListQuery<K>): Record<string, QueryValue> {
  const { labels, ...rest } = query;
  const result: Record<string, QueryValue> = { ...(rest as Record<string, QueryValue>) };
  for (const [key, value] of Object.entries(labels ?? {})) result[`label.${key}`] = value;
  return result;
}

/** A verb as a method; one that takes nothing, or nothing that must be said, needs no input. */
export type VerbMethods<K extends KindTypes> = {
  readonly [V in keyof K["verbs"]]: (
    id: string,
    ...rest: K["verbs"][V] extends Readonly<Record<string, never>>
      ? [options?: MutationOptions]
      : object extends K["verbs"][V]
        ? [options?: MutationOptions & { readonly input?: K["verbs"][V] }]
        : [options: MutationOptions & { readonly input: K["verbs"][V] }]
  ) => Promise<Resource<K>>;
};

/** A collection with its kind's verbs as methods, and without the changes that its kind does not offer. */
export type CollectionOf<K extends KindTypes> = Omit<
  Collection<K>,
  Exclude<"create" | "update" | "delete", K["may"]>
> &
  VerbMethods<K>;

/** Makes the collection of one kind. */
export function createCollection<K extends KindTypes>(transport: Transport, info: KindInfo): CollectionOf<K> {
  const collection = new Collection<K>(transport, info);
  const verbs = info.verbs.map((verb) => [
    verb,
    (id: string, options: MutationOptions & { readonly input?: object } = {}) => {
      const { input = {}, ...rest } = options;
      const name = verb as keyof K["verbs"] & string;
      return collection.invoke(id, name, input as K["verbs"][typeof name], rest);
    },
  ]);
  return Object.assign(collection, Object.fromEntries(verbs) as VerbMethods<K>);
}
