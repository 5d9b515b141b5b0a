/**
 * Empties hosts that are to be drained: asks for a migration of each machine, a few at a time, and again after a while
 * for what could not move. Nothing is kept of it but the host's spec and the migrations themselves, so any replica goes
 * on with it, and two at once do no harm: a machine takes one request at a time.
 */
import { isFault } from "#kernel/fault.ts";
import type { Ctx } from "#kernel/ctx.ts";
import type { Logger } from "#kernel/log.ts";
import { sleep } from "#kernel/retry.ts";
import { host, type HostSpec } from "../resources/host/host.resource.ts";
import { migration, type MigrationSpec } from "../resources/migration/migration.resource.ts";
import type { Queryable } from "../store/database.ts";
import type { ResourceService } from "./resource-service.ts";
import { askUnasked } from "./unasked-move.ts";

export interface DrainsOptions {
  readonly database: Queryable;
  readonly resources: ResourceService;
  readonly log: Logger;
  readonly now: () => number;
}

/** A machine that is still there. */
export interface Remaining {
  readonly id: string;
  readonly name: string;
  readonly phase: string;
  readonly state: "waiting" | "moving" | "stuck";
  /** Of its newest migration. */
  readonly migration: string | null;
  /** Why it could not move when that was tried last. */
  readonly error: { readonly reason: string; readonly message: string } | null;
}

interface Row extends Omit<Remaining, "state"> {
  readonly project: string;
  readonly adopted: boolean;
  /** Its newest migration is under way. */
  readonly open: boolean;
  /** How that was tried. */
  readonly type: MigrationSpec["type"] | null;
  /** Since its last migration ended; null: none has. */
  readonly idleSeconds: number | null;
  /** It ended because no host could take it, and hosts have changed since. */
  readonly fleetChanged: boolean;
}

const everyMs = 1_000;
/** Moves away from one host at a time. */
const atOnce = 2;
const againAfterSeconds = 60;
/** When the hosts are others than when it was tried last: after a restart of the control plane they come back one by one. */
const againAfterChangeSeconds = 5;

export class Drains implements AsyncDisposable {
  readonly #options: DrainsOptions;
  readonly #stop = new AbortController();
  #loop: Promise<void> | undefined;

  constructor(options: DrainsOptions) {
    this.#options = options;
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  /** What is still on the host. Only for the cloud's administrators: it names everybody's machines. */
  async remaining(ctx: Ctx, hostId: string): Promise<readonly Remaining[]> {
    const { id, desired } = await this.#options.resources.get(ctx, host, hostId);
    const rows = await this.#read(id);
    return rows.map((row) => {
      const { id, name, phase, migration } = row;
      const { state, error } = judge(row, (desired as HostSpec).drain_cold === true);
      return { id, name, phase, migration, state, error };
    });
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await this.#look().catch((error: unknown) => this.#options.log.warn("drain.look_failed", { error }));
      await sleep(everyMs, signal).catch(() => undefined); // the loop looks at the signal
    }
  }

  async #look(): Promise<void> {
    const hosts = await this.#options.database.query<{ id: string; cold: boolean }>(
      "select id, coalesce(desired -> 'drain_cold' = 'true', false) as cold from resource where kind = 'host' and desired ->> 'draining' = 'true' and deleting_at is null",
      [],
      "drain_hosts",
    );
    for (const { id, cold } of hosts) {
      const rows = await this.#read(id);
      const free = atOnce - rows.filter(({ open }) => open).length;
      const movable = rows.flatMap((row) => {
        const { begin: type } = judge(row, cold);
        return type ? [{ ...row, type }] : [];
      });
      for (const row of movable.slice(0, Math.max(0, free))) await this.#begin(row);
    }
  }

  #read(hostId: string): Promise<Row[]> {
    return this.#options.database.query<Row>(
      `select r.id, r.name, r.project, r.phase, m.id as migration, nullif(m.observed -> 'error', 'null') as error,
         m.observed ->> 'type' as type, coalesce(r.desired -> 'adopted' <> 'null', false) as adopted,
         m.id is not null and m.request_of is not null as open,
         extract(epoch from now() - (m.observed ->> 'ended_at')::timestamptz)::float8 as "idleSeconds",
         m.observed #>> '{error,reason}' = 'NO_HOST' and exists (
           select 1 from resource h where h.kind = 'host' and h.id <> $1 and h.updated_at > m.updated_at) as "fleetChanged"
       from resource r left join lateral (
         select id, observed, request_of, updated_at from resource
         where kind = 'migration' and refs @> jsonb_build_object('instance', r.id)
         order by created_at desc, id desc limit 1) m on true
       where r.kind = 'instance' and r.host_id = $1 and r.deleting_at is null order by r.created_at, r.id`,
      [hostId],
      "drain_machines",
    );
  }

  async #begin({ id, project, type }: Movable): Promise<void> {
    const move = { project, name: `drain-${id}`, spec: { instance: id, type } };
    try {
      await askUnasked(this.#options, move, this.#stop.signal);
    } catch (fault) {
      // It has changed since, or cannot be asked: looked at again, and told by `remaining` meanwhile.
      if (!isFault(fault, "conflict")) throw fault;
      this.#options.log.info("drain.not_begun", { instance: id, fault });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#loop;
  }
}

/** What of a row a judgement goes by. */
export type Standing = Omit<Row, "id" | "name" | "project" | "migration">;

type Movable = Pick<Row, "id" | "project"> & Pick<MigrationSpec, "type">;

interface Judgement extends Pick<Remaining, "state" | "error"> {
  /** The move to ask for now. */
  readonly begin?: MigrationSpec["type"];
}

/**
 * How a machine's move away stands.
 * @param cold what could not move as it runs may be stopped for it
 */
export function judge(
  { phase, adopted, open, type, error, idleSeconds, fleetChanged }: Standing,
  cold: boolean,
): Judgement {
  if (open) return { state: "moving", error: null };
  if (adopted) return { state: "stuck", error: adoptedStays };
  if (phase === "failed") return { state: "stuck", error: error ?? failedStays };
  const movable = (migration.requestWhen ?? []).includes(phase);
  if (!error) return { state: "waiting", error, ...(movable && { begin: "live" }) };
  // Whoever called it off did not mean that it should be stopped instead.
  const mayStop = cold && phase === "running" && type !== "cold" && error.reason !== "CANCELLED";
  // Hosts that are away for a moment are no reason to stop it.
  const tooSoon = error.reason === "NO_HOST" && idleSeconds !== null && idleSeconds < againAfterChangeSeconds;
  if (mayStop) return { state: "waiting", error, ...(!tooSoon && { begin: "cold" }) };
  const rest = fleetChanged ? againAfterChangeSeconds : againAfterSeconds;
  const again = movable && (idleSeconds === null || idleSeconds > rest);
  return { state: "stuck", error, ...(again && { begin: "live" }) };
}

const adoptedStays = {
  reason: "ADOPTED_STAYS",
  message: "it was adopted: its description and its files are its host's own",
};
const failedStays = {
  reason: "INSTANCE_FAILED",
  message: "it has failed: only what runs or is off can move",
};
