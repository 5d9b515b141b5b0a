/** The engine's parts, put together: main and tests start and stop it as one. */
import type { Logger } from "#kernel/log.ts";
import type { AgentPort } from "../agents/port.ts";
import type { Policy } from "../scheduler/policy.ts";
import type { Database } from "../store/database.ts";
import type { AnyController } from "./controller.ts";
import { EventFeed } from "./events.ts";
import { CachedFleet } from "./fleet.ts";
import { Hints } from "./hints.ts";
import { Leases } from "./leases.ts";
import { Loop } from "./loop.ts";
import { defaultFenceMs, defaultLeaseMs, reportEveryMs, toLossTiming } from "./loss-judgement.ts";
import { HostWatch } from "./loss.ts";
import type { KindRegistry } from "./observe.ts";
import { Orphans } from "./orphans.ts";
import type { PassDependencies } from "./pass.ts";
import { Presence, type PresenceOptions } from "./presence.ts";
import { Promises } from "./promises.ts";
import { ReportStore } from "./reports.ts";
import { Sweep, type SweepOptions } from "./sweep.ts";
import { Waiting } from "./waiting.ts";

export interface EngineOptions {
  readonly database: Database;
  readonly registry: KindRegistry;
  readonly controllers: readonly AnyController[];
  readonly agents: AgentPort;
  readonly policy: Policy;
  readonly log: Logger;
  readonly now: () => number;
  readonly replicaId: string;
  /** Where other replicas reach this one. */
  readonly replicaUrl: string;
  readonly replicaGateway?: NonNullable<PresenceOptions["replicaGateway"]>;
  readonly concurrency: number;
  readonly pollMs: number;
  readonly sweepMs: number;
  /** How long a host's lease is, and how long its agent may take to stop what is bound to it. */
  readonly leaseMs?: number;
  readonly fenceMs?: number;
  readonly chores?: NonNullable<SweepOptions["chores"]>;
  readonly pausePoint?: NonNullable<PassDependencies["pausePoint"]>;
}

const monotonicMs = () => performance.now();

export class Engine implements AsyncDisposable {
  readonly events: EventFeed;
  readonly presence: Presence;
  readonly reports: ReportStore;
  readonly sweep: Sweep;
  readonly fleet: CachedFleet;
  readonly #hints: Hints;
  readonly #leases: Leases;
  readonly #watch: HostWatch;
  readonly #loop: Loop;
  readonly #agents: AgentPort;
  readonly #waiting: Waiting;
  #watching: Disposable | undefined;

  constructor(options: EngineOptions) {
    const { database, registry, agents, log, now, replicaId, replicaUrl, replicaGateway } = options;
    const onChange = () => this.hint();
    this.#agents = agents;
    this.#waiting = new Waiting({ database, log, onWoken: onChange });
    this.fleet = new CachedFleet(database, options.policy, now, (room) => this.#waiting.roomAppeared(room));
    this.#hints = new Hints(database, replicaId, log, () => this.presence.isAlone);
    this.events = new EventFeed(database, log);
    this.presence = new Presence({
      ...{ database, registry, replicaId, replicaUrl, log, onChange },
      connected: () => agents.connected(),
      ...(replicaGateway && { replicaGateway }),
    });
    const orphans = new Orphans(database, agents, log);
    const { leaseMs = defaultLeaseMs, fenceMs = defaultFenceMs } = options;
    const leases = (this.#leases = new Leases({ database, leaseMs, monotonicMs, log }));
    this.reports = new ReportStore({
      ...{ database, registry, leases, orphans, log, onChange },
      reportEveryMs: reportEveryMs(leaseMs),
    });
    this.#watch = new HostWatch({
      ...{ database, registry, agents, leases, replicaId, monotonicMs, log, onChange },
      timing: toLossTiming(leaseMs, fenceMs),
    });
    const { pausePoint, concurrency, pollMs, sweepMs } = options;
    this.#loop = new Loop(
      {
        database,
        registry,
        agents,
        fleet: this.fleet,
        promises: new Promises(database),
        log,
        now,
        onChange,
        ...(pausePoint && { pausePoint }),
      },
      { concurrency, pollMs, holder: replicaId },
    );
    const reconciledKinds = options.controllers.map(({ kind }) => kind);
    this.sweep = new Sweep({
      database,
      presence: this.presence,
      log,
      everyMs: sweepMs,
      reconciledKinds,
      onChange,
      chores: options.chores ?? {},
    });
    this.#hints.onHint(() => {
      this.#loop.poke();
      this.events.poke();
      this.fleet.poke();
    });
  }

  /** Something was committed: this replica looks at once, the others soon. */
  hint(): void {
    this.#hints.hint();
  }

  async start(): Promise<void> {
    await this.presence.start();
    this.#watching = this.#agents.onChange((hostId, connected) =>
      this.presence.connectionChanged(hostId, connected),
    );
    this.#hints.start();
    this.events.start();
    this.#loop.start();
    this.sweep.start();
    this.#watch.start();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#watching?.[Symbol.dispose]();
    await this.#watch[Symbol.asyncDispose]();
    await this.#leases[Symbol.asyncDispose]();
    await this.sweep[Symbol.asyncDispose]();
    await this.#loop[Symbol.asyncDispose]();
    await this.events[Symbol.asyncDispose]();
    await this.#waiting[Symbol.asyncDispose]();
    await this.presence[Symbol.asyncDispose]();
    await this.#hints[Symbol.asyncDispose]();
  }
}
