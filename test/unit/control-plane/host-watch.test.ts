/** The watch for silent hosts, with a database and hosts that are made up and a clock that the test turns. */
import t from "tap";
import type { AgentPort } from "#cp/agents/port.ts";
import { defaultFenceMs, defaultLeaseMs, toLossTiming } from "#cp/engine/loss-judgement.ts";
import { HostWatch } from "#cp/engine/loss.ts";
import { createRegistry } from "#cp/resources/registry.ts";
import type { Database } from "#cp/store/database.ts";
import { HostSighting } from "#gen/skerry/agent/v1/host_pb.js";
import { silentLogger } from "#kernel/log.ts";

const timing = toLossTiming(defaultLeaseMs, defaultFenceMs);

class World {
  nowMs = 1_000_000;
  /** Hosts that the database takes for silent, by its own clock. */
  silent: readonly string[] = [];
  /** By the clock that nobody sets. */
  readonly heardAtMs = new Map<string, number>();
  readonly probes: string[] = [];
  readonly records: { id: string; lost: boolean; atMs: number }[] = [];
  readonly watch: HostWatch;

  constructor(connected: readonly string[]) {
    const tx = {
      query: async (sql: string, params: readonly unknown[]) => {
        if (!sql.includes("set sighting = $3")) return [];
        this.records.push({ id: params[0] as string, lost: params[3] as boolean, atMs: this.nowMs });
        return [{}];
      },
    };
    const database = {
      query: async (_sql: string, _params: unknown, name: string) =>
        name === "loss_silent" ? this.silent.map((id) => this.#row(id)) : [],
      transaction: (work: (on: typeof tx) => Promise<unknown>) => work(tx),
    } as unknown as Database;
    const agents = {
      connected: () => connected,
      probeHost: async (_other: string, { hostId }: { hostId: string }) => {
        this.probes.push(hostId);
        this.nowMs += 1_500;
        return { sighting: HostSighting.SILENT };
      },
    } as unknown as AgentPort;
    this.watch = new HostWatch({
      ...{ database, agents, timing, log: silentLogger, replicaId: "replica-1" },
      registry: createRegistry([]),
      leases: { heardAtMs: (id) => this.heardAtMs.get(id) },
      monotonicMs: () => this.nowMs,
      onChange: () => undefined,
    });
  }

  #row(id: string) {
    const last = this.records.findLast((record) => record.id === id);
    return {
      ...{ id, seq: 7, fresh: false, lost: last?.lost === true, connected: true, reached: true },
      ...{ sighting: last ? "silent" : null, address: "203.0.113.1:7443" },
    };
  }

  /** Looks as often as the product does. */
  async lookFor(ms: number): Promise<void> {
    for (const untilMs = this.nowMs + ms; this.nowMs < untilMs; this.nowMs += 900) await this.watch.look();
  }
}

void t.test("a wall clock that jumps by an hour makes nobody suspicious who was heard", async (t) => {
  const world = new World(["host-1", "host-2"]);
  await world.lookFor(40_000);
  world.silent = ["host-1", "host-2"];
  for (let second = 0; second < 60; second++) {
    for (const id of world.silent) world.heardAtMs.set(id, world.nowMs);
    await world.lookFor(1_000);
  }
  t.same([world.probes, world.records], [[], []]);
});

void t.test("a host that falls silent is lost in time, and not before its lease is over", async (t) => {
  const world = new World(["host-2"]);
  await world.lookFor(40_000);
  const heardAtMs = world.nowMs;
  world.heardAtMs.set("host-1", heardAtMs);
  world.silent = ["host-1"];
  await world.lookFor(30_000);
  const lost = world.records.find((record) => record.lost);
  const afterMs = (lost?.atMs ?? Infinity) - heardAtMs;
  t.ok(
    afterMs >= timing.leaseMs + timing.clockErrorMs + timing.fenceMs,
    `${String(afterMs)} ms are long enough`,
  );
  t.ok(afterMs <= 24_000, `${String(afterMs)} ms are soon enough`);
  const seen = world.records.find((record) => !record.lost);
  t.ok((seen?.atMs ?? Infinity) - heardAtMs <= 15_000, "it was suspected before");
});

void t.test("a replica that stood still itself takes nobody for lost", async (t) => {
  const world = new World(["host-2"]);
  await world.lookFor(40_000);
  world.heardAtMs.set("host-1", world.nowMs);
  world.nowMs += 3_600_000;
  world.silent = ["host-1"];
  await world.lookFor(timing.returnMs);
  t.same(world.records, [], "not before all have had time to come back");
});
