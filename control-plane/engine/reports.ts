/**
 * Takes agents' reports: what changed on their machines, what they are, how they do. Everything may
 * come twice, late and out of order.
 */
import { timestampDate, type Timestamp } from "@bufbuild/protobuf/wkt";
import type { HostFacts } from "#gen/skerry/agent/v1/host_pb.js";
import type { ForeignMachines } from "#gen/skerry/agent/v1/machine_pb.js";
import type { HostMetrics, MachineMetrics } from "#gen/skerry/agent/v1/metrics_pb.js";
import type { ReportRequest } from "#gen/skerry/control/v1/control_pb.js";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import type { HostStatus } from "../resources/host/host.resource.ts";
import type { Database, Tx } from "../store/database.ts";
import { HostSamples } from "./host-samples.ts";
import { sameHostStatus, toForeignMachines, toHostStatus } from "./host-facts.ts";
import { toObservation } from "./machine.ts";
import { observeMachines, recomputeObserved, type KindRegistry } from "./observe.ts";
import type { Orphans } from "./orphans.ts";
import type { Leases } from "./leases.ts";
import { changeResource, lockResource } from "./rows.ts";

/** A host that has got no lease asks again soon. */
const unleasedReportMs = 1_000;
/** A command may still be under way when a full report was put together: younger facts outrank it. */
const settledAfterSeconds = 30;

export interface ReportStoreOptions {
  readonly database: Database;
  readonly registry: KindRegistry;
  readonly leases: Leases;
  /** How long a host may say nothing when it has nothing to say. */
  readonly reportEveryMs: number;
  readonly orphans: Orphans;
  readonly log: Logger;
  /** Called after a change was committed. */
  readonly onChange: () => void;
}

/** What is on record of a host that tells all there is of it. */
interface KnownHost {
  readonly observed: HostStatus | null;
  readonly has_machines: boolean;
}

export class ReportStore {
  readonly #options: ReportStoreOptions;
  readonly #hostSamples: HostSamples;

  constructor(options: ReportStoreOptions) {
    this.#options = options;
    this.#hostSamples = new HostSamples(options.database);
  }

  /** Throws `denied` HOST_REMOVED for a host that is no longer one of this cloud's. */
  async report(
    hostId: string,
    report: ReportRequest,
  ): Promise<{ nextReportMs: number; wantFull: boolean; leaseMs: number }> {
    const { database, leases, reportEveryMs, onChange } = this.#options;
    const known = report.full ? await this.#findKnown(hostId) : undefined;
    const lease = leases.renew(hostId, report.sessionId);
    if (report.facts && !isKnown(report.facts, known)) await this.#storeFacts(hostId, report.facts);
    if (report.foreign) await this.#storeForeign(hostId, report.foreign);
    const own = await this.#findOwn(hostId, report.machines);
    const news = report.full ? own : await this.#findNews(hostId, own);
    // An empty host whose agent has only been away says nothing new, and after a restart thousands say so at once.
    const isEmpty = known?.has_machines === false && report.machines.length === 0;
    let wantFull = false;
    if (news.length + report.removed.length > 0 || (report.full && !isEmpty)) {
      const told = { ...report, machines: news };
      wantFull = await database.transaction((tx) => this.#storeMachines(tx, hostId, told));
      onChange();
    }
    await this.#storeSamples(hostId, report.hostMetrics, report.machineMetrics);
    if (report.full && !(isEmpty && known.observed?.unknown_machines.length === 0))
      await this.#storeUnknown(
        hostId,
        report.machines.map(({ id }) => id),
      );
    if (report.full && !isEmpty) await this.#wakeElsewhere(hostId);
    const leaseMs = await lease;
    return { nextReportMs: leaseMs > 0 ? reportEveryMs : unleasedReportMs, wantFull, leaseMs };
  }

  async #findKnown(hostId: string): Promise<KnownHost> {
    const [known] = await this.#options.database.read<KnownHost>(
      `select observed, exists (select 1 from incarnation i where i.host_id = r.id) as has_machines
       from resource r where id = $1 and kind = 'host'`,
      [hostId],
      "report_known",
    );
    if (known) return known;
    throw new Fault("denied", "this host has been removed from the cloud", { reason: "HOST_REMOVED" });
  }

  /**
   * Those that this host was given: it says nothing of others. A machine whose instance has been forgotten here since
   * is looked at as one that nobody knows.
   */
  async #findOwn(hostId: string, machines: ReportRequest["machines"]): Promise<ReportRequest["machines"]> {
    if (machines.length === 0) return machines;
    const rows = await this.#options.database.read<{ id: string }>(
      `select x.id from unnest($2::text[]) as x(id) where
         exists (select 1 from incarnation i where i.resource_id = x.id and i.host_id = $1)
         or exists (select 1 from reservation v where v.resource_id = x.id and v.host_id = $1)
         or exists (select 1 from resource r where r.id = x.id and r.host_id = $1)`,
      [hostId, machines.map(({ id }) => id)],
      "report_own",
    );
    const own = new Set(rows.map(({ id }) => id));
    return machines.filter(({ id }) => own.has(id));
  }

  /** The answers to commands have told most of it already: what is known need not wait for anybody's locks. */
  async #findNews(hostId: string, machines: ReportRequest["machines"]): Promise<ReportRequest["machines"]> {
    if (machines.length === 0) return machines;
    const known = await this.#options.database.read<{ id: string; seq: number }>(
      "select resource_id as id, seq from incarnation where host_id = $1 and resource_id = any($2)",
      [hostId, machines.map(({ id }) => id)],
      "incarnation_known",
    );
    const seqs = new Map(known.map(({ id, seq }) => [id, seq]));
    return machines.filter(({ id, seq }) => Number(seq) > (seqs.get(id) ?? -1));
  }

  /** What has an old copy on this host may have waited for it; the copy goes once all that the host has is on record. */
  async #wakeElsewhere(hostId: string): Promise<void> {
    const { database, onChange } = this.#options;
    const woken = await database.query(
      `with waiting as (
         select w.key from incarnation i join resource r on r.id = i.resource_id join work w on w.key = r.id
         where i.host_id = $1 and r.host_id is distinct from i.host_id order by w.key for update of w)
       update work w set dirty_seq = dirty_seq + 1, run_at = least(run_at, now())
       from waiting where w.key = waiting.key returning 1`,
      [hostId],
      "report_wake",
    );
    if (woken.length > 0) onChange();
  }

  async #storeMachines(tx: Tx, hostId: string, report: ReportRequest): Promise<boolean> {
    const { registry, log } = this.#options;
    const known = report.full
      ? await tx.query<{ id: string }>("select resource_id as id from incarnation where host_id = $1", [
          hostId,
        ])
      : [];
    const named = [...report.machines, ...report.removed, ...known].map(({ id }) => id);
    await tx.query("select 1 from work where key = any($1) order by key for update", [named], "work_lock");

    const changed = await observeMachines(tx, registry, hostId, report.machines.map(toObservation), log);
    const gone = report.removed.length > 0 ? await this.#storeRemoved(tx, hostId, report.removed) : [];
    const { absent, doubtful } = report.full
      ? await this.#markAbsent(
          tx,
          hostId,
          report.machines.map(({ id }) => id),
        )
      : { absent: [], doubtful: false };
    const lost = [...gone, ...absent];
    await recomputeObserved(tx, registry, lost, log);
    const dirty = [...changed.map(({ resource }) => resource.id), ...lost];
    if (dirty.length > 0) {
      await tx.query(
        "update work set dirty_seq = dirty_seq + 1, run_at = least(run_at, now()) where key = any($1)",
        [dirty],
        "work_dirty",
      );
    }
    return doubtful;
  }

  async #storeRemoved(tx: Tx, hostId: string, removed: ReportRequest["removed"]): Promise<string[]> {
    const gone = await tx.query<{ id: string }>(
      `delete from incarnation i using jsonb_to_recordset($2) as x(id text, seq bigint)
       where i.host_id = $1 and i.resource_id = x.id and i.seq < x.seq returning i.resource_id as id`,
      [hostId, JSON.stringify(removed.map(({ id, seq }) => ({ id, seq: Number(seq) })))],
      "incarnation_removed",
    );
    return gone.map(({ id }) => id);
  }

  /** Machines that a full report does not name do not exist there, unless they are newer than the report may be. */
  async #markAbsent(
    tx: Tx,
    hostId: string,
    present: readonly string[],
  ): Promise<{ absent: string[]; doubtful: boolean }> {
    const rows = await tx.query<{ id: string; young: boolean }>(
      `select resource_id as id, updated_at > now() - $3 * interval '1 second' as young from incarnation
       where host_id = $1 and state <> 'absent' and resource_id <> all($2)`,
      [hostId, present, settledAfterSeconds],
    );
    const absent = rows.filter(({ young }) => !young).map(({ id }) => id);
    // seq 0: an agent that lost its ledger counts from the start again and must be believed.
    await tx.query(
      `update incarnation set state = 'absent', seq = 0, updated_at = now()
       where host_id = $1 and resource_id = any($2)`,
      [hostId, absent],
    );
    return { absent, doubtful: absent.length < rows.length };
  }

  async #storeFacts(hostId: string, facts: HostFacts): Promise<void> {
    const { database, registry, log, onChange } = this.#options;
    const stored = await database.transaction(async (tx) => {
      const host = await lockResource(tx, hostId);
      if (!host) return false;
      const before = host.observed as HostStatus | undefined;
      const [session] = await tx.query<{ connected: boolean }>(
        "select replica_id is not null as connected from host_session where host_id = $1",
        [hostId],
      );
      const observed: HostStatus = {
        ...toHostStatus(facts),
        connected: session?.connected ?? false,
        unknown_machines: before?.unknown_machines ?? [],
        ...(before?.silence && { silence: before.silence }),
        ...(before?.foreign_machines && { foreign_machines: before.foreign_machines }),
      };
      if (before && sameHostStatus(before, observed)) return false;
      await changeResource(tx, registry.definition("host"), host, { observed }, log);
      return true;
    });
    if (stored) onChange();
  }

  async #storeForeign(hostId: string, foreign: ForeignMachines): Promise<void> {
    const { database, registry, log, onChange } = this.#options;
    await database.transaction(async (tx) => {
      const host = await lockResource(tx, hostId);
      const before = host?.observed as HostStatus | undefined;
      if (!host || !before) return;
      const observed = { ...before, foreign_machines: toForeignMachines(foreign) };
      if (sameHostStatus(before, observed)) return;
      await changeResource(tx, registry.definition("host"), host, { observed }, log);
    });
    onChange();
  }

  async #storeUnknown(hostId: string, reported: readonly string[]): Promise<void> {
    const { database, registry, orphans, log } = this.#options;
    const unknown = await orphans.examine(hostId, reported);
    await database.transaction(async (tx) => {
      const host = await lockResource(tx, hostId);
      const observed = host?.observed as HostStatus | undefined;
      if (!host || !observed || observed.unknown_machines.join() === unknown.join()) return;
      log.warn("host.unknown_machines", { hostId, machines: unknown });
      const change = { observed: { ...observed, unknown_machines: unknown } };
      await changeResource(tx, registry.definition("host"), host, change, log);
    });
  }

  async #storeSamples(
    hostId: string,
    host: HostMetrics | undefined,
    machines: readonly MachineMetrics[],
  ): Promise<void> {
    const { database } = this.#options;
    if (host) await this.#hostSamples.store({ hostId, at: toIso(host.at), sample: toSample(host) });
    if (machines.length === 0) return;
    const samples = machines.map((m) => ({ id: m.machineId, at: toIso(m.at), sample: toSample(m) }));
    await database.query(
      `insert into machine_sample (machine_id, at, sample)
       select x.id, x.at, x.sample from jsonb_to_recordset($1) as x(id text, at timestamptz, sample jsonb)
       where exists (select 1 from incarnation i where i.resource_id = x.id and i.host_id = $2)
       on conflict do nothing`,
      [JSON.stringify(samples), hostId],
      "machine_sample_insert",
    );
  }
}

function isKnown(facts: HostFacts, known: KnownHost | undefined): boolean {
  return !!known?.observed && sameHostStatus(known.observed, toHostStatus(facts));
}

/** The message's numbers in snake_case; names and units are the contract's. */
function toSample(metrics: HostMetrics | MachineMetrics): Record<string, number> {
  const sample: Record<string, number> = {};
  for (const [name, value] of Object.entries(metrics)) {
    if (typeof value !== "number" && typeof value !== "bigint") continue;
    sample[name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)] = Number(value);
  }
  return sample;
}

function toIso(at: Timestamp | undefined): string {
  return (at ? timestampDate(at) : new Date()).toISOString();
}
