import t from "tap";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Fault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";
import { HostFactsSchema, HostLabelsSchema } from "#gen/skerry/agent/v1/host_pb.js";
import { type Machine, MachineSchema } from "#gen/skerry/agent/v1/machine_pb.js";
import { HostMetricsSchema, MachineMetricsSchema } from "#gen/skerry/agent/v1/metrics_pb.js";
import type { ReportRequestSchema } from "#gen/skerry/control/v1/control_pb.js";
import { Reporter } from "#agent/control/reporter.ts";
import { ChangeFeed } from "#agent/machines/change-feed.ts";
import { until } from "#test/support/until.ts";

type Report = MessageInitShape<typeof ReportRequestSchema>;

/** A reporter and a control plane that answers as told. */
class Bench implements AsyncDisposable {
  readonly changes = new ChangeFeed();
  readonly reports: Report[] = [];
  readonly machines = new Map<string, Machine>();
  readonly reporter: Reporter;
  answer = { nextReportMs: 60_000, wantFull: false, leaseMs: 0 };
  isUrgent = false;
  fault: Fault | undefined;
  /** When set, a report waits for it. */
  hold: Promise<void> | undefined;
  inFlight = 0;
  mostInFlight = 0;
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;

  constructor(sampleMs = 60_000) {
    this.reporter = new Reporter({
      send: async (report) => {
        this.mostInFlight = Math.max(this.mostInFlight, ++this.inFlight);
        await this.hold;
        this.inFlight--;
        if (this.fault) throw this.fault;
        this.reports.push(report);
        return this.answer;
      },
      isUrgent: () => this.isUrgent,
      machines: () => [...this.machines.values()],
      sample: async () => ({
        host: create(HostMetricsSchema, { cpuUsage: 0.5 }),
        machines: [create(MachineMetricsSchema, { machineId: "vm-1" })],
      }),
      changes: this.changes,
      sessionId: "session-1",
      facts: create(HostFactsSchema, { hostname: "one" }),
      labels: create(HostLabelsSchema, { region: "north" }),
      sampleMs,
      log: silentLogger,
      timing: { backoff: { baseMs: 5, capMs: 10 } },
    });
    this.#running = this.reporter.run(this.#stop.signal);
  }

  change(id: string, seq: number): void {
    const machine = create(MachineSchema, { id, seq: BigInt(seq) });
    this.machines.set(id, machine);
    this.changes.publish({ changed: machine });
  }

  remove(id: string, seq: number): void {
    this.machines.delete(id);
    this.changes.publish({ removed: { id, seq: BigInt(seq), fence: { epoch: 1n, generation: 1n } } });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }
}

const told = (report: Report | undefined) => (report?.machines ?? []).map(({ id, seq }) => `${id}@${seq}`);

await t.test("everything after connecting, then what changes, as the latest of each", async (t) => {
  await using bench = new Bench();
  bench.change("vm-1", 1);
  bench.change("vm-1", 2);
  bench.reporter.setConnected(true);
  await until(() => bench.reports.length === 1);
  const [first] = bench.reports;
  t.equal(first?.full, true);
  t.equal(first?.facts?.hostname, "one");
  t.equal(first?.labels?.region, "north");
  t.same(told(first), ["vm-1@2"]);

  for (let seq = 3; seq < 50; seq++) bench.change("vm-1", seq);
  bench.change("vm-2", 1);
  bench.remove("vm-3", 9);
  await until(() => bench.reports.length === 2);
  const second = bench.reports[1];
  t.equal(second?.full, false);
  t.equal(second?.facts, undefined, "facts are not told again");
  t.same(told(second), ["vm-1@49", "vm-2@1"], "changes close together go as one");
  t.same(
    second?.removed?.map(({ id, seq }) => `${id}@${seq}`),
    ["vm-3@9"],
  );
  t.equal(bench.reporter.state.pending, 0);
});

await t.test("one report at a time; what changes meanwhile goes with the next", async (t) => {
  await using bench = new Bench();
  let release = () => undefined as void;
  bench.hold = new Promise((resolve) => (release = resolve));
  bench.change("vm-1", 1);
  bench.reporter.setConnected(true);
  await until(() => bench.inFlight === 1);
  bench.change("vm-1", 2);
  bench.change("vm-2", 1);
  bench.hold = undefined;
  release();
  await until(() => bench.reports.length === 2);
  t.same(told(bench.reports[0]), ["vm-1@1"]);
  t.same(told(bench.reports[1]), ["vm-1@2", "vm-2@1"], "the newer state was not acknowledged with the older");
  t.equal(bench.mostInFlight, 1);
});

await t.test("nothing is lost while the control plane is away or refuses", async (t) => {
  await using bench = new Bench();
  bench.fault = new Fault("unavailable", "no database", { reason: "DATABASE_UNAVAILABLE" });
  bench.reporter.setConnected(true);
  bench.change("vm-1", 1);
  await until(() => bench.reporter.state.attempt >= 3);
  t.equal(bench.reporter.state.fault?.reason, "DATABASE_UNAVAILABLE", "why is visible");
  bench.reporter.setConnected(false);
  bench.change("vm-1", 2);
  bench.remove("vm-2", 5);
  bench.fault = undefined;
  t.same(bench.reports, []);
  bench.reporter.setConnected(true);
  await until(() => bench.reports.length === 1);
  t.equal(bench.reports[0]?.full, true);
  t.same(told(bench.reports[0]), ["vm-1@2"]);
  t.equal(bench.reports[0]?.removed?.length, 1);
  t.equal(bench.reporter.state.attempt, 0);
});

await t.test("the control plane sets the pace and may ask for everything", async (t) => {
  await using bench = new Bench();
  bench.change("vm-1", 1);
  bench.answer = { nextReportMs: 1, wantFull: true, leaseMs: 0 };
  bench.reporter.setConnected(true);
  await until(() => bench.reports.length >= 3);
  t.ok(bench.reports.every(({ full }) => full));
  bench.answer = { nextReportMs: 1, wantFull: false, leaseMs: 0 };
  await until(() => bench.reports.at(-1)?.full === false);
  t.same(told(bench.reports.at(-1)), [], "what has not changed is not told again");
});

await t.test("a lease that machines hang on is renewed in time for two reports to fail", async (t) => {
  await using bench = new Bench();
  bench.answer = { nextReportMs: 60_000, wantFull: false, leaseMs: 30 };
  bench.isUrgent = true;
  bench.reporter.setConnected(true);
  await until(() => bench.reports.length >= 4);
  bench.isUrgent = false;
  const { length } = bench.reports;
  bench.change("vm-1", 1);
  await until(() => told(bench.reports.at(-1)).length > 0);
  t.ok(bench.reports.length <= length + 2, "and one that nothing hangs on is not");
});

await t.test("samples are kept, the newest, and told once", async (t) => {
  await using bench = new Bench(1);
  await until(() => bench.reporter.state.samples >= 5);
  bench.answer = { nextReportMs: 1, wantFull: false, leaseMs: 0 };
  bench.reporter.setConnected(true);
  await until(() => bench.reports.length >= 3);
  t.ok((bench.reports[0]?.machineMetrics?.length ?? 0) >= 5, "those of the time before came along");
  const samples = bench.reports.flatMap(({ machineMetrics }) => machineMetrics ?? []);
  t.equal(new Set(samples).size, samples.length, "none is told twice");
  t.equal(bench.reports[0]?.hostMetrics?.cpuUsage, 0.5);
});
