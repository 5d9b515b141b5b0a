import type { z } from "zod";
import type { Ctx } from "#kernel/ctx.ts";
import { Fault, type Json } from "#kernel/fault.ts";
import { newId } from "#kernel/id.ts";
import type { EventFeed } from "../engine/events.ts";
import { changeResource, eraseResource, insertResource, lockResource } from "../engine/rows.ts";
import { enqueue } from "../engine/work.ts";
import type { AnyDefinition, Resource } from "../resources/definition.ts";
import type { Database, Tx } from "../store/database.ts";
import { checkSite, checkUnused, resolveReferences } from "./admission.ts";
import { authorise, isCloudAdmin, rootProject } from "./authorisation.ts";
import { guardDirectory } from "./directory-guards.ts";
import { oncePerKey } from "./idempotency.ts";
import { checkQuota, findLimits } from "./quota.ts";
import { openRequest } from "./requests.ts";
import type {
  CreateInput,
  ListPage,
  ListQuery,
  MutationOptions,
  Reply,
  ResourceApi,
  Shown,
  UpdateInput,
  WatchEvent,
  WatchQuery,
} from "./resource-api.ts";
import { postAudit, type AuditFacts } from "./audit.ts";
import { canonicalId, listResources, notFound, readResource, sees } from "./resource-queries.ts";
import { checkLabels, checkName, invalidField, mergePatch, parseInput, sameJson } from "./validation.ts";
import type { Sealer } from "./sealer.ts";
import { waitUntilSettled, watchResources } from "./watch.ts";

export interface ResourceServiceOptions {
  readonly database: Database;
  readonly events: EventFeed;
  /** Keeps what is shown once, for whoever asks again with the same key. */
  readonly sealer?: Sealer;
  /** Called after a commit that left something to do. */
  readonly onChange: () => void;
}

/** What the system itself may add to a create. */
export interface CreateExtras {
  /** Status that is known from the start, for kinds that nobody reports on. */
  readonly observed?: unknown;
  /** True: the spec may have the fields that the kind withholds from callers. */
  readonly withheld?: true;
  /** What is stored with it, in the same transaction; gives what of it is shown once. */
  also?(tx: Tx, resource: Resource): Promise<Shown | undefined>;
}

export class ResourceService implements ResourceApi {
  readonly #database: Database;
  readonly #events: EventFeed;
  readonly #sealer: Sealer | undefined;
  readonly #onChange: () => void;

  constructor({ database, events, sealer, onChange }: ResourceServiceOptions) {
    this.#database = database;
    this.#sealer = sealer;
    this.#events = events;
    this.#onChange = onChange;
  }

  async create(
    ctx: Ctx,
    kind: AnyDefinition,
    input: CreateInput,
    options: MutationOptions,
    extras: CreateExtras = {},
  ): Promise<Reply> {
    authorise(ctx.principal, kind.access.create, `creating ${kind.plural}`, "change");
    const name = checkName(input.name);
    const labels = checkLabels(input.labels ?? {});
    const parsed = parseSpec(kind, input.spec ?? {}, undefined);
    const given = toFields(input.spec);
    const own = extras.withheld ? undefined : kind.withheld?.find((field) => (given[field] ?? null) !== null);
    if (own !== undefined) throw invalidField(`spec.${own}`, "cannot be given");
    const id = newId(kind.idPrefixes[0], ctx.now());
    const project = kind.isProject ? id : kind.scope === "cloud" ? rootProject : ctx.principal.project;
    const { spec, secrets } = withSecrets(kind, parsed);
    const create = async (tx: Tx, looked: Promise<Looked>) => {
      if (kind.site) await checkSite(tx, kind.site(spec));
      const [referred, limits] = await looked;
      const desired = deriveSpec(kind, spec, given, referred, undefined);
      const refs = toRefs(kind, referred);
      await guardDirectory(tx, ctx, kind, undefined, desired);
      await checkQuota(tx, project, kind, undefined, desired, limits);
      const unready = Object.values(referred).filter((resource) => resource.phase === "listed");
      for (const { id: key, kind: referredKind } of unready) await enqueue(tx, { key, kind: referredKind });
      const observed: unknown = extras.observed ?? kind.initial?.(desired);
      const row = { id, project, name, labels, owner: ctx.principal.name, desired, observed, refs };
      const target = kind.requestOf === undefined ? undefined : referred[kind.requestOf];
      const made = await (target ? openRequest(tx, kind, row, target) : insertResource(tx, kind, row));
      const shown = { ...secrets, ...(await extras.also?.(tx, made)) };
      postAudit(tx, ctx, factsOf(kind, "create", undefined, made));
      return { made, shown };
    };
    return this.#mutate(ctx, options, (tx) => {
      // Asked for at once: all of it is answered together with whether this was done before.
      const looked = Promise.all([resolveReferences(tx, project, kind, spec), findLimits(tx, project, kind)]);
      looked.catch(() => undefined); // told to `create`
      return () => create(tx, looked);
    });
  }

  async get(ctx: Ctx, kind: AnyDefinition, id: string): Promise<Resource> {
    authorise(ctx.principal, kind.access.read, `reading ${kind.plural}`, "read");
    return readResource(this.#database, ctx.principal, kind, id);
  }

  async list(ctx: Ctx, kind: AnyDefinition, query: ListQuery): Promise<ListPage> {
    authorise(ctx.principal, kind.access.read, `reading ${kind.plural}`, "read");
    return listResources(this.#database, ctx.principal, kind, query);
  }

  async update(
    ctx: Ctx,
    kind: AnyDefinition,
    id: string,
    input: UpdateInput,
    options: MutationOptions,
  ): Promise<Reply> {
    return this.#change(ctx, kind, id, { access: "update", act: "update" }, options, async (tx, before) => {
      const name = input.name === undefined ? before.name : checkName(input.name);
      const labels = nextLabels(before, input);
      const desired =
        input.spec === undefined ? before.desired : await patchSpec(tx, kind, before, input.spec);
      const intends = !sameJson(before.desired, desired);
      if (kind.fixedName && name !== before.name)
        throw invalidField("name", "cannot be changed after creation");
      await guardDirectory(tx, ctx, kind, before, desired as Record<string, unknown>);
      if (intends && kind.frozenIn?.includes(before.phase)) throw wrongPhase("be changed", before);
      if (!intends && name === before.name && sameJson(labels, before.labels)) return before;
      await checkQuota(tx, before.project, kind, specOf(before), desired as Record<string, unknown>);
      const generation = before.generation + (intends ? 1 : 0);
      return changeResource(tx, kind, before, { name, labels, desired, generation }, ctx.log);
    });
  }

  async delete(ctx: Ctx, kind: AnyDefinition, id: string, options: MutationOptions): Promise<Reply> {
    return this.#change(ctx, kind, id, { access: "delete", act: "delete" }, options, async (tx, before) => {
      if (before.deletingAt) return before;
      await guardDirectory(tx, ctx, kind, before, undefined);
      await checkUnused(tx, before);
      const change = { deletingAt: new Date(ctx.now()), generation: before.generation + 1 };
      if (kind.reconciled) return changeResource(tx, kind, before, change, ctx.log);
      await eraseResource(tx, kind, before);
      return { ...before, ...change };
    });
  }

  async invoke(
    ctx: Ctx,
    kind: AnyDefinition,
    id: string,
    verb: string,
    input: unknown,
    options: MutationOptions,
  ): Promise<Reply> {
    const definition = Object.hasOwn(kind.verbs, verb) ? kind.verbs[verb] : undefined;
    if (!definition)
      throw new Fault("notFound", `${kind.plural} have no verb ${verb.slice(0, 80)}`, {
        reason: "VERB_NOT_FOUND",
      });
    const parsed: unknown = parseInput(definition.input, input ?? {}, "");
    return this.#change(ctx, kind, id, { access: "update", act: verb }, options, async (tx, before) => {
      if (before.deletingAt || !definition.when.includes(before.phase)) {
        throw wrongPhase(verb, before, definition.when as readonly string[]);
      }
      const desired = parseSpec(kind, definition.apply(before, parsed), before);
      await checkQuota(tx, before.project, kind, specOf(before), desired);
      return changeResource(tx, kind, before, { desired, generation: before.generation + 1 }, ctx.log);
    });
  }

  watch(ctx: Ctx, kind: AnyDefinition, query: WatchQuery): AsyncIterable<WatchEvent> {
    authorise(ctx.principal, kind.access.read, `reading ${kind.plural}`, "read");
    return watchResources({ database: this.#database, events: this.#events }, ctx, kind, query);
  }

  async wait(ctx: Ctx, kind: AnyDefinition, id: string, timeoutMs: number): Promise<Resource | undefined> {
    authorise(ctx.principal, kind.access.read, `reading ${kind.plural}`, "read");
    return waitUntilSettled({ database: this.#database, events: this.#events }, ctx, kind, id, timeoutMs);
  }

  /** A change of one resource: its work row is locked first, then itself (see the lock order in rows.ts). */
  #change(
    ctx: Ctx,
    kind: AnyDefinition,
    id: string,
    { access, act }: { readonly access: "update" | "delete"; readonly act: string },
    options: MutationOptions,
    change: (tx: Tx, before: Resource) => Promise<Resource>,
  ): Promise<Reply> {
    authorise(ctx.principal, kind.access.read, `reading ${kind.plural}`, "read");
    const canonical = canonicalId(kind, id);
    return this.#mutate(ctx, options, (tx) => async () => {
      if (kind.reconciled) {
        await tx.query(
          `update work set dirty_seq = dirty_seq + 1, run_at = least(run_at, now()), attempt = 0
           where key = coalesce((select request_of from resource where id = $1), $1)`,
          [canonical],
          "work_intent",
        );
      }
      const before = await lockResource(tx, canonical);
      if (before?.kind !== kind.kind || !sees(ctx.principal, kind, before.project)) throw notFound(kind, id);
      authorise(ctx.principal, kind.access[access], `changing ${kind.plural}`, "change");
      const beyond = kind.scope === "cloud" || (kind.scope === "directory" && isCloudAdmin(ctx.principal));
      if (before.project !== ctx.principal.project && !beyond) {
        throw new Fault("denied", `this ${kind.kind} belongs to another project`, {
          reason: "OTHER_PROJECT",
        });
      }
      checkRevision(before, options.ifMatch);
      if (access === "update" && before.deletingAt) {
        throw new Fault("conflict", `this ${kind.kind} is being deleted`, { reason: "BEING_DELETED" });
      }
      const after = await change(tx, before);
      postAudit(tx, ctx, factsOf(kind, act, before, after));
      return { made: after };
    });
  }

  async #mutate(
    ctx: Ctx,
    options: MutationOptions,
    begin: (tx: Tx) => () => Promise<{ readonly made: Resource; readonly shown?: Shown }>,
  ): Promise<Reply> {
    const once = {
      account: ctx.principal.id,
      idempotency: options.idempotency,
      sealer: this.#sealer,
    };
    const reply = await this.#database.transaction((tx) => {
      const change = begin(tx);
      return oncePerKey(tx, once, async () => {
        const { made, shown = {} } = await change();
        const plain = options.respond(made);
        if (Object.keys(shown).length === 0) return { reply: plain };
        return { reply: options.respond(made, shown), plain };
      });
    });
    this.#onChange();
    return reply;
  }
}

/** What a new resource refers to, and what its project may have. */
type Looked = readonly [Record<string, Resource>, Awaited<ReturnType<typeof findLimits>>];

/** What the audit log keeps of a change: who it was called and what was wanted of it. */
function factsOf(
  kind: AnyDefinition,
  act: string,
  before: Resource | undefined,
  after: Resource,
): AuditFacts {
  const shown = ({ name, labels, desired }: Resource): Json => ({ name, labels, spec: desired as Json });
  return {
    action: `${kind.kind}.${act}`,
    resource: kind.kind,
    resource_id: after.id,
    success: true,
    ...(before && { before: shown(before) }),
    ...(act !== "delete" && { after: shown(after) }),
  };
}

const specOf = ({ desired }: Resource) => desired as Readonly<Record<string, unknown>>;
/** Makes what the kind shows once and the spec does not bring. */
function withSecrets(kind: AnyDefinition, spec: Record<string, unknown>) {
  const secrets: Record<string, string> = {};
  for (const [name, shown] of Object.entries(kind.shownOnce ?? {})) {
    const made = shown.make(spec);
    if (!made) continue;
    spec = made.spec as Record<string, unknown>;
    secrets[name] = made.secret;
  }
  return { spec, secrets };
}

const toFields = (spec: unknown) => (spec ?? {}) as Readonly<Record<string, unknown>>;

/** Ids of what must stay as long as the resource does. */
function toRefs(kind: AnyDefinition, referred: Readonly<Record<string, Resource>>): Record<string, string> {
  const lasting = Object.entries(referred).filter(([name]) => !kind.references[name]?.copied);
  return Object.fromEntries(lasting.map(([name, { id }]) => [name, id]));
}

/** The spec after a merge patch; what the patch names anew is looked up. */
async function patchSpec(tx: Tx, kind: AnyDefinition, before: Resource, patch: unknown): Promise<unknown> {
  const spec = parseSpec(kind, mergePatch(before.desired, patch), before);
  if (!kind.derive) return spec;
  const previous = specOf(before);
  const referred = await resolveReferences(tx, before.project, kind, spec, previous);
  return deriveSpec(kind, spec, toFields(patch), referred, previous);
}

function deriveSpec(
  kind: AnyDefinition,
  spec: Record<string, unknown>,
  given: Readonly<Record<string, unknown>>,
  referred: Readonly<Record<string, Resource>>,
  previous: Readonly<Record<string, unknown>> | undefined,
): Record<string, unknown> {
  return kind.derive ? (kind.derive(spec, given, referred, previous) as Record<string, unknown>) : spec;
}

function nextLabels(before: Resource, { labels, labelKeys }: UpdateInput): Resource["labels"] {
  if (labelKeys)
    return checkLabels(Object.fromEntries(labelKeys.map((key) => [key, before.labels[key] ?? ""])));
  if (labels === undefined) return before.labels;
  return checkLabels(mergePatch(before.labels, labels) as object as Record<string, unknown>);
}

function wrongPhase(act: string, { phase }: Resource, allowed: readonly string[] = []): Fault {
  return new Fault("conflict", `it cannot ${act} while it is ${phase}`, {
    reason: "PHASE_CONFLICT",
    detail: { phase, allowed },
  });
}

function checkRevision({ revision }: Resource, ifMatch: number | undefined): void {
  if (ifMatch === undefined || ifMatch === revision) return;
  throw new Fault("stale", "it has changed since you read it", {
    reason: "PRECONDITION_FAILED",
    detail: { revision },
    retryable: false,
  });
}

/** The whole spec as it would be, or `invalid` with every field that is wrong. */
function parseSpec(
  kind: AnyDefinition,
  spec: unknown,
  before: Resource | undefined,
): Record<string, unknown> {
  const next = parseInput(kind.spec as z.ZodType<Record<string, unknown>>, spec, "spec");
  const previous = before?.desired as Record<string, unknown> | undefined;
  const frozen = kind.immutable.find((field) => previous && !sameJson(previous[field], next[field]));
  if (frozen !== undefined) throw invalidField(`spec.${frozen}`, "cannot be changed after creation");
  kind.validate?.(next, previous);
  return next;
}
