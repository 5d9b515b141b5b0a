import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { silentLogger } from "#kernel/log.ts";
import {
  type Machine,
  type MachineSpec,
  MachineSpecSchema,
  MachineState,
  PortForwardSchema,
  Power,
  RestartPolicy,
} from "#gen/skerry/agent/v1/machine_pb.js";
import { FakeDriver } from "#agent/drivers/fake/driver.ts";
import type { LocalImage } from "#agent/drivers/driver.ts";
import { type Change, ChangeFeed } from "#agent/machines/change-feed.ts";
import { ConsoleLog } from "#agent/machines/console-log.ts";
import { Consoles } from "#agent/machines/console.ts";
import { Ledger } from "#agent/machines/ledger.ts";
import { defaultTiming, type ImageSource, type MachineDeps } from "#agent/machines/machine-deps.ts";
import { MachineManager } from "#agent/machines/manager.ts";
import { recoverMachines } from "#agent/machines/recover.ts";
import { decideRestart } from "#agent/machines/restart-policy.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const { RUNNING, PAUSED, STOPPED, FAILED, PREPARING, STARTING } = MachineState;
const MiB = 2n ** 20n;
const never = new AbortController().signal;

function specOf(change: Partial<MachineSpec> = {}): MachineSpec {
  const spec = create(MachineSpecSchema, {
    name: "one",
    image: { id: "img-1", name: "micro" },
    vcpus: 1,
    memoryBytes: 128n * MiB,
    diskBytes: 64n * MiB,
    power: Power.ON,
    restartPolicy: RestartPolicy.ON_FAILURE,
  });
  return Object.assign(spec, change);
}

const image: LocalImage = { type: "disk", path: "/nowhere", format: "raw" };
const localImages: ImageSource = { ensure: async () => image };

/** One agent's worth of machines on a folder; a second one on the same folder is the agent after a kill. */
class Host {
  readonly directory: string;
  readonly driver: FakeDriver;
  readonly changes = new ChangeFeed();
  readonly seen: Change[] = [];
  readonly ledger: Ledger;
  readonly manager: MachineManager;
  readonly deps: MachineDeps;
  readonly #stop = new AbortController();
  #epoch = 1n;

  static async start(change: Partial<MachineDeps> & { directory?: string } = {}): Promise<Host> {
    const directory = change.directory ?? (await mkdtemp(join(tmpdir(), "skerry-machines-")));
    const ledger = await Ledger.open({ directory: join(directory, "ledger"), log: silentLogger });
    const host = new Host(directory, ledger, change);
    void host.manager.run(host.#stop.signal);
    await recoverMachines(host.manager, host.deps, never);
    return host;
  }

  private constructor(directory: string, ledger: Ledger, change: Partial<MachineDeps>) {
    this.directory = directory;
    this.ledger = ledger;
    this.driver = new FakeDriver({ log: silentLogger });
    this.deps = {
      driver: this.driver,
      images: localImages,
      ledger,
      changes: this.changes,
      log: silentLogger,
      timing: { ...defaultTiming, backoff: { baseMs: 10, capMs: 20 }, attempts: 4 },
      now: Date.now,
      directoryOf: (id) => join(directory, "machines", id),
      ...change,
    };
    this.manager = new MachineManager(this.deps);
    this.changes.subscribe((change) => this.seen.push(change));
  }

  ensure(id: string, generation: number, change: Partial<MachineSpec> = {}, waitMs = 5000): Promise<Machine> {
    const fence = { epoch: this.#epoch, generation: BigInt(generation) };
    return this.manager.ensure({ id, fence, spec: specOf(change), waitMs }, never);
  }

  remove(id: string, generation: number, waitMs = 5000): Promise<boolean> {
    const fence = { epoch: this.#epoch, generation: BigInt(generation) };
    return this.manager.remove({ id, fence, waitMs }, never);
  }

  set epoch(epoch: bigint) {
    this.#epoch = epoch;
  }

  /** The agent is killed: nothing is tidied up. Work under way is held for ever by the test's driver. */
  async kill(): Promise<void> {
    this.#stop.abort();
    await this.manager.close({ pullPlugs: false }, never);
  }

  /** Killed, and started again on the same folder. */
  async restart(change: Partial<MachineDeps> = {}): Promise<Host> {
    await this.kill();
    return Host.start({ directory: this.directory, ...change });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}

await t.test("from command to running and back", async (t) => {
  await using host = await Host.start();
  const made = await host.ensure("vm-1", 1);
  t.equal(made.state, RUNNING);
  t.equal(made.generationReached, 1n);
  t.equal(made.driver, "fake");
  t.ok(made.startedAt);
  const off = await host.ensure("vm-1", 2, { power: Power.OFF });
  t.equal(off.state, STOPPED);
  t.equal(off.reason, "");
  const again = await host.ensure("vm-1", 3, { restarts: 1n });
  t.equal(again.state, RUNNING);
  t.equal(again.restarts, 1n);
  const restarted = await host.ensure("vm-1", 4, { restarts: 2n });
  t.ok(restarted.startedAt, "it was stopped and started");
  t.ok(host.seen.some((change) => "changed" in change && change.changed.state === MachineState.STOPPING));
  t.equal(await host.remove("vm-1", 5), true);
  t.throws(() => host.manager.get("vm-1"));
  t.equal(await host.remove("vm-1", 5), true, "removing what is gone succeeds");
  t.equal(await host.remove("vm-never", 1), true);
  const seqs = host.seen.map((change) => ("changed" in change ? change.changed.seq : change.removed.seq));
  t.same(
    seqs.slice(0, -1),
    [...seqs.slice(0, -1)].sort((a, b) => Number(a - b)),
    "sequence numbers only grow",
  );
});

await t.test("fences", async (t) => {
  await using host = await Host.start();
  host.epoch = 5n;
  await host.ensure("vm-1", 3);
  t.equal((await host.ensure("vm-1", 3)).state, RUNNING, "a replay is answered");
  t.equal(await reasonOf(host.ensure("vm-1", 3, { vcpus: 2 })), "FENCE_CONTENT_DIFFERS");
  t.equal(await reasonOf(host.remove("vm-1", 3)), "FENCE_CONTENT_DIFFERS");
  t.equal(await reasonOf(host.ensure("vm-1", 2)), "FENCE_STALE");
  host.epoch = 4n;
  t.equal(await reasonOf(host.ensure("vm-1", 9)), "FENCE_STALE", "the epoch counts first");
  host.epoch = 6n;
  t.equal((await host.ensure("vm-1", 1)).fence?.epoch, 6n);
  t.equal(await host.remove("vm-1", 2), true);
  t.equal(await reasonOf(host.ensure("vm-1", 1)), "FENCE_STALE", "a late command does not resurrect it");
  const next = await host.restart();
  next.epoch = 6n;
  t.equal(await reasonOf(next.ensure("vm-1", 1)), "FENCE_STALE", "nor after a restart of the agent");
  next.epoch = 7n;
  t.equal((await next.ensure("vm-1", 1)).state, RUNNING, "a newer one may use the id again");
  await next.kill();
});

await t.test("the newest intent wins", async (t) => {
  await using host = await Host.start();
  host.driver.set({ stepping: "manual" });
  await host.ensure("vm-1", 1, {}, 0);
  await until(() => host.driver.waiting === 1);
  await host.ensure("vm-1", 2, { power: Power.OFF }, 0);
  host.epoch = 2n;
  const same = host.ensure("vm-1", 2, { power: Power.OFF }, 5000);
  host.driver.set({ stepping: "auto" });
  t.equal((await same).state, STOPPED, "the first never came to run");
  t.notOk(host.seen.some((change) => "changed" in change && change.changed.state === RUNNING));
  host.driver.set({ stepping: "manual" });
  await host.ensure("vm-1", 3, {}, 0);
  const gone = host.remove("vm-1", 4);
  t.equal(await gone, true, "a removal takes over from a start that hangs");
});

await t.test("restart policy", async (t) => {
  await using host = await Host.start({
    timing: {
      ...defaultTiming,
      backoff: { baseMs: 5, capMs: 5 },
      restarts: { crashes: 2, windowMs: 60_000 },
    },
  });
  const view = (id: string) => host.manager.get(id);
  await host.ensure("vm-off", 1);
  await host.driver.end("vm-off", true);
  await until(() => view("vm-off").reason === "GUEST_POWERED_OFF");
  t.equal(view("vm-off").state, STOPPED, "on-failure: a guest that powers off stays off");
  host.epoch = 2n;
  t.equal((await host.ensure("vm-off", 1)).state, STOPPED, "the same intent again does not start it");
  t.equal((await host.ensure("vm-off", 2)).state, RUNNING, "a new one does");

  await host.ensure("vm-always", 1, { restartPolicy: RestartPolicy.ALWAYS });
  await host.driver.end("vm-always", true);
  await until(() => view("vm-always").crashes === 1n && view("vm-always").state === RUNNING);

  await host.ensure("vm-never", 1, { restartPolicy: RestartPolicy.NEVER });
  await host.driver.end("vm-never", false);
  await until(() => view("vm-never").reason === "CRASHED");
  t.equal(view("vm-never").state, STOPPED);

  await host.ensure("vm-loop", 1);
  for (const crashes of [1n, 2n]) {
    await host.driver.end("vm-loop", false);
    await until(() => view("vm-loop").crashes === crashes && view("vm-loop").state === RUNNING);
  }
  await host.driver.end("vm-loop", false);
  await until(() => view("vm-loop").reason === "CRASH_LOOP");
  t.equal(view("vm-loop").state, FAILED);
});

await t.test("faults that may pass are tried again, the others are told", async (t) => {
  await using host = await Host.start();
  const unavailable = { call: "ensure", when: "before", code: "unavailable", reason: "HOST_BUSY" } as const;
  host.driver.set({ failures: [{ ...unavailable, times: 2 }] });
  t.equal((await host.ensure("vm-1", 1)).state, RUNNING);
  t.ok(
    host.seen.some(
      (change) =>
        "changed" in change && change.changed.state === STARTING && change.changed.reason === "HOST_BUSY",
    ),
    "the state says so meanwhile",
  );
  host.driver.set({ failures: [{ ...unavailable, times: 4 }] });
  const givenUp = await host.ensure("vm-2", 1);
  t.equal(givenUp.state, FAILED);
  t.equal(givenUp.reason, "HOST_BUSY");
  t.equal(givenUp.generationReached, 0n);
  host.driver.set({ failures: [] });
  host.epoch = 2n;
  t.equal((await host.ensure("vm-2", 1)).state, RUNNING, "a new fence tries again");
  t.equal((await host.ensure("vm-2", 2, { diskBytes: 1n })).reason, "DISK_CANNOT_SHRINK");
  host.driver.set({ lose: ["vm-1"] });
  await until(() => host.manager.get("vm-1").reason === "MACHINE_LOST");
  t.equal((await host.ensure("vm-1", 1)).state, FAILED, "a lost disk is not papered over");
  t.equal((await host.ensure("vm-1", 2)).state, RUNNING, "until its owner changes the machine");
});

await t.test("a machine that was here waits until its host has room again", async (t) => {
  await using host = await Host.start();
  const full = { call: "ensure", when: "before", code: "exhausted", reason: "HOST_DISK_FULL" } as const;
  await host.ensure("vm-1", 1);
  host.driver.set({ failures: [{ ...full, times: 10 }] });
  await host.driver.end("vm-1", false);
  await until(() => host.manager.get("vm-1").reason === "HOST_DISK_FULL");
  const waiting = host.manager.get("vm-1");
  t.equal(waiting.state, STARTING);
  t.match(waiting.message, /trying again in/);
  await until(() => host.manager.get("vm-1").state === RUNNING);

  host.driver.set({ failures: [{ ...full, times: 10 }] });
  t.match(
    await host.ensure("vm-1", 2, { memoryBytes: 512n * MiB }),
    { state: FAILED, reason: "HOST_DISK_FULL" },
    "a change for which there is no room is refused",
  );
});

await t.test("images: progress is shown, and stopping needs none", async (t) => {
  let finish = () => undefined as void;
  let broken = false;
  const images: ImageSource = {
    ensure: async (_image, progress) => {
      if (broken) throw new Error("asked for an image");
      progress(10n, 100n);
      await new Promise<void>((resolve) => (finish = resolve));
      return image;
    },
  };
  await using host = await Host.start({ images });
  const begun = await host.ensure("vm-1", 1, {}, 1);
  t.equal(begun.state, PREPARING);
  await until(() => host.manager.get("vm-1").imageBytesDone === 10n);
  finish();
  await until(() => host.manager.get("vm-1").state === RUNNING);
  broken = true;
  t.equal((await host.ensure("vm-1", 2, { power: Power.OFF })).state, STOPPED);
});

await t.test("the agent is killed and comes back", async (t) => {
  await using first = await Host.start();
  const before = await first.ensure("vm-1", 1);
  await first.ensure("vm-off", 1, { power: Power.OFF });
  await first.ensure("vm-dies", 1);
  await first.ensure("vm-halted", 1);
  await first.driver.end("vm-halted", true);
  await until(() => first.manager.get("vm-halted").reason !== "");
  await first.kill();
  await first.driver.end("vm-dies", false);

  const second = await Host.start({ directory: first.directory });
  await until(() => second.manager.list().every(({ state }) => state === RUNNING || state === STOPPED));
  const after = second.manager.get("vm-1");
  t.same(after.startedAt, before.startedAt, "it was taken up, not restarted");
  t.ok(after.seq > before.seq, "sequence numbers go on");
  t.equal(second.manager.get("vm-off").state, STOPPED);
  await until(() => second.manager.get("vm-dies").state === RUNNING);
  t.equal(second.manager.get("vm-halted").reason, "GUEST_POWERED_OFF", "what rests goes on resting");

  second.driver.set({ stepping: "manual" });
  await second.ensure("vm-half", 1, {}, 0);
  await until(() => second.driver.waiting > 0);
  const third = await second.restart();
  await until(() => third.manager.get("vm-half").state === RUNNING);
  await third.manager.close({ pullPlugs: true }, never);
  t.equal((await third.driver.inspect("vm-1"))?.state, "stopped", "a stop that pulls plugs stops them");
  const fourth = await third.restart();
  await until(() => fourth.manager.get("vm-1").state === RUNNING);
  t.pass("and the next start turns them on");
  await fourth.kill();
});

await t.test("a full disk refuses the command and loses nothing", async (t) => {
  await using host = await Host.start();
  const before = await host.ensure("vm-1", 1);
  for (const id of ["vm-1", "vm-2"]) {
    await symlink("/dev/full", join(host.directory, "ledger", `${id}.intent.new`));
  }
  t.equal(await reasonOf(host.ensure("vm-1", 2, { vcpus: 2 })), "HOST_DISK_FULL");
  t.same(host.manager.get("vm-1").fence, before.fence, "the intent is the old one");
  t.equal(await reasonOf(host.ensure("vm-2", 1)), "HOST_DISK_FULL");
  t.equal(await reasonOf(() => host.manager.get("vm-2")), "NOT_FOUND");
  t.equal((await host.ensure("vm-1", 2, { vcpus: 2 })).vcpus, 2, "with room again it is accepted");
  t.equal((await host.ensure("vm-2", 1)).state, RUNNING);
});

await t.test("a guest that stands still for want of room goes on once there is some", async (t) => {
  /** Its guests stand still for as long as there is no room. */
  class CrampedDriver extends FakeDriver {
    room = true;
    override async inspect(id: string) {
      const found = await super.inspect(id);
      const stuck = { reason: "HOST_DISK_FULL", message: "no room" };
      return !found || this.room ? found : { ...found, state: "paused" as const, stuck };
    }
    override async ensure(...args: Parameters<FakeDriver["ensure"]>) {
      await super.ensure(...args);
      return (await this.inspect(args[0].id))!;
    }
  }
  const driver = new CrampedDriver({ log: silentLogger });
  await using host = await Host.start({ driver });
  await host.ensure("vm-1", 1);
  driver.room = false;
  const stuck = await host.ensure("vm-1", 2, { vcpus: 2 }, 20);
  t.match(stuck, { state: PAUSED, reason: "HOST_DISK_FULL", message: /^no room; trying again in / });
  driver.room = true;
  await until(() => host.manager.get("vm-1").state === RUNNING);
  t.match(host.manager.get("vm-1"), { reason: "", message: "" });
});

await t.test("decisions about an end that nobody asked for", async (t) => {
  const limits = { crashes: 2, windowMs: 100 };
  const { ALWAYS, ON_FAILURE, NEVER, UNSPECIFIED } = RestartPolicy;
  const rows: [RestartPolicy, boolean, number[], object][] = [
    [NEVER, false, [], { do: "rest", reason: "CRASHED" }],
    [NEVER, true, [], { do: "rest", reason: "GUEST_POWERED_OFF" }],
    [ON_FAILURE, true, [], { do: "rest", reason: "GUEST_POWERED_OFF" }],
    [UNSPECIFIED, true, [], { do: "rest", reason: "GUEST_POWERED_OFF" }],
    [ON_FAILURE, false, [], { do: "restart", attempt: 0 }],
    [ALWAYS, true, [950], { do: "restart", attempt: 1 }],
    [ALWAYS, true, [850, 950], { do: "restart", attempt: 1 }],
    [ALWAYS, false, [920, 950], { do: "give-up" }],
    [ALWAYS, false, [5000, 6000], { do: "restart", attempt: 0 }],
  ];
  for (const [policy, clean, crashes, wanted] of rows) {
    t.same(
      decideRestart(policy, clean, crashes, 1000, limits),
      wanted,
      JSON.stringify([policy, clean, crashes]),
    );
  }
});

await t.test("host ports that are left to the host", async (t) => {
  await using host = await Host.start();
  const forward = (guestPort: number, protocol = "tcp") =>
    create(PortForwardSchema, { protocol, guestPort, hostAddress: "" });
  const made = await host.ensure("vm-1", 1, { forwards: [forward(80), forward(22), forward(53, "udp")] });
  const ports = made.forwards.map(({ hostPort }) => hostPort);
  t.ok(ports.every((port) => port > 0));
  t.not(ports[0], ports[1]);
  const fewer = await host.ensure("vm-1", 2, { forwards: [forward(22)] });
  t.equal(fewer.forwards[0]?.hostPort, ports[1], "a port once chosen is kept");
  const bad = create(PortForwardSchema, { protocol: "tcp", guestPort: 80, hostAddress: "192.0.2.1" });
  t.equal((await host.ensure("vm-2", 1, { forwards: [bad] })).reason, "HOST_ADDRESS_UNKNOWN");
});

await t.test("consoles: shared, followed, rotated", async (t) => {
  await using host = await Host.start();
  await host.ensure("vm-1", 1);
  const { directoryOf } = host.deps;
  const access = host.driver.console;
  const consoles = new Consoles({
    access,
    manager: host.manager,
    directoryOf,
    log: silentLogger,
    rotateBytes: 64,
  });
  const leave = new AbortController();
  const seen = { text: "", offset: 0 };
  const following = (async () => {
    for await (const chunk of consoles.follow("vm-1", 0, leave.signal)) {
      seen.text += Buffer.from(chunk.output).toString("latin1");
      seen.offset = chunk.offset;
    }
  })();
  using first = consoles.join("vm-1");
  using second = consoles.join("vm-1");
  await first.write(Buffer.from("one\r"));
  await second.write(Buffer.from("two\r"));
  await until(() => seen.text.includes("one") && seen.text.includes("two"));
  t.equal(seen.offset, seen.text.length);

  const log = new ConsoleLog(join(directoryOf("vm-1"), "console.log"), { rotateBytes: 8 });
  t.equal(await log.rotate(), true);
  t.equal(await log.rotate(), false, "a small log stays");
  await first.write(Buffer.from("three"));
  await until(() => seen.text.endsWith("three"));
  t.equal(seen.offset, seen.text.length, "offsets go on over a rotation");
  const whole = await consoles.read("vm-1", 0, 1000);
  t.equal(Buffer.from(whole.output).toString("latin1"), seen.text.slice(0, -5), "the older file first");
  t.equal(whole.endOffset, seen.text.length);
  t.equal(Buffer.from((await consoles.read("vm-1", -1, 5)).output).toString(), "three");
  t.equal(await log.rotate(), false);
  await first.write(Buffer.from("long enough"));
  await until(() => seen.text.endsWith("enough"));
  await log.rotate();
  const clamped = await consoles.read("vm-1", 0, 1000);
  t.equal(clamped.offset, clamped.endOffset, "what is gone is skipped");
  t.equal(Buffer.from(clamped.output).toString(), "threelong enough");

  await host.ensure("vm-1", 2, { power: Power.OFF });
  await first.write(Buffer.from("nobody hears this"));
  await host.ensure("vm-1", 3);
  await first.write(Buffer.from("back"));
  await until(() => seen.text.endsWith("back"));
  t.notMatch(seen.text, /nobody/);
  leave.abort();
  await following;
  t.equal(await reasonOf(() => consoles.join("vm-2")), "NOT_FOUND");
});

await t.test("whatever comes in whatever order, the newest intent is reached", async (t) => {
  const restarts = { crashes: 1000, windowMs: 60_000 };
  await using host = await Host.start({
    timing: { ...defaultTiming, backoff: { baseMs: 2, capMs: 5 }, restarts },
  });
  for (const id of ["vm-a", "vm-b"]) await host.ensure(id, 2);
  const step = fc.record({
    machine: fc.constantFrom("vm-a", "vm-b"),
    act: fc.constantFrom("on", "off", "restart", "remove", "crash", "late", "pause"),
  });
  let generation = 2;
  let asked = 0n;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 12 }), fc.nat(2), async (steps, delayMs) => {
      host.driver.set({ delayMs });
      const wanted = new Map<string, "on" | "off" | "gone">();
      const work: Promise<unknown>[] = [];
      for (const { machine, act } of steps) {
        const next = ++generation;
        if (act === "on" || act === "off") {
          work.push(
            host.ensure(machine, next, { power: act === "on" ? Power.ON : Power.OFF, restarts: asked }, 0),
          );
          wanted.set(machine, act);
        } else if (act === "restart") {
          work.push(host.ensure(machine, next, { restarts: ++asked }, 0));
          wanted.set(machine, "on");
        } else if (act === "remove") {
          work.push(host.remove(machine, next, 0));
          wanted.set(machine, "gone");
        } else if (act === "crash") await host.driver.end(machine, false);
        else if (act === "late") work.push(reasonOf(host.ensure(machine, 1, { vcpus: 9 }, 0)));
        else await new Promise(setImmediate);
      }
      await Promise.allSettled(work);
      for (const [id, state] of wanted) {
        const reached = { on: "running", off: "stopped", gone: undefined }[state];
        await until(async () => (await host.driver.inspect(id))?.state === reached);
        t.not(host.ledger.find(id)?.intent.spec?.vcpus, 9, "a late command had no effect");
      }
    }),
    { numRuns: 60 },
  );
});

await t.test("a copy of a disk gives way to all else", async (t) => {
  await using host = await Host.start();
  await host.ensure("vm-1", 1);
  const copy = (id = "vm-1") =>
    host.manager.copyDisk(id, join(host.directory, "copy"), () => undefined, never);
  await copy();
  t.ok((await readFile(join(host.directory, "copy"))).length > 0);

  let held = false;
  const copyDisk = async (_plan: object, _path: string, _progress: object, signal: AbortSignal) => {
    held = true;
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    held = false;
    throw signal.reason;
  };
  Object.assign(host.driver, { diskCopies: { copyDisk } });
  const copying = reasonOf(copy());
  await until(() => held);
  t.equal(await reasonOf(copy()), "CAPTURE_UNDER_WAY");
  const ensure = host.driver.ensure.bind(host.driver);
  let heldAtStop = true;
  host.driver.ensure = (...given) => {
    heldAtStop = held;
    return ensure(...given);
  };
  t.equal((await host.ensure("vm-1", 2, { power: Power.OFF })).state, STOPPED);
  t.equal(await copying, "CAPTURE_INTERRUPTED");
  t.notOk(heldAtStop, "the disk was free before the machine was touched");
  t.equal(await reasonOf(copy("vm-never")), "NOT_FOUND");

  await using other = await Host.start();
  Object.assign(other.driver, { diskCopies: undefined });
  await other.ensure("vm-1", 1);
  const path = join(other.directory, "copy");
  t.equal(
    await reasonOf(other.manager.copyDisk("vm-1", path, () => undefined, never)),
    "CAPTURE_UNSUPPORTED",
  );
});

await t.test("a damaged record takes no other with it", async (t) => {
  await using host = await Host.start();
  await host.ensure("vm-1", 1);
  await host.ensure("vm-2", 1);
  await host.kill();
  const path = join(host.directory, "ledger", "vm-1.intent");
  const text = await readFile(path, "utf8");
  await writeFile(path, text.replace('"vcpus":1', '"vcpus":9'));
  await writeFile(join(host.directory, "ledger", "vm-3.intent.new"), "half a li");
  const next = await host.restart();
  await until(() => next.manager.get("vm-2").state === RUNNING);
  t.equal(next.manager.get("vm-1").reason, "LEDGER_DAMAGED");
  t.equal(next.manager.list().length, 2, "it is reported, so that nobody starts a second one");
  next.epoch = 9n;
  t.equal(await reasonOf(next.ensure("vm-1", 1)), "LEDGER_DAMAGED");
  t.equal(await reasonOf(next.remove("vm-1", 1)), "LEDGER_DAMAGED");
  await next.kill();
  const files = ["vm-1.intent", "vm-1.progress", "vm-2.intent", "vm-2.progress"];
  t.same((await readdir(join(host.directory, "ledger"))).sort(), files);
});
