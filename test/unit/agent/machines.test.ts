/** Machines of an agent, told as the control plane would: in whatever order it comes, the newest intent counts. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { MachineState, PortForwardSchema, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import { defaultTiming, type ImageSource } from "#agent/machines/machine-deps.ts";
import { localImage, LoneHost } from "#test/support/lone-host.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const { RUNNING, STOPPED, PREPARING } = MachineState;
const never = new AbortController().signal;

await t.test("from command to running and back", async (t) => {
  await using host = await LoneHost.start();
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
  await using host = await LoneHost.start();
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
  await using host = await LoneHost.start();
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

await t.test("images: progress is shown, and stopping needs none", async (t) => {
  let finish = () => undefined as void;
  let broken = false;
  const images: ImageSource = {
    ensure: async (_image, progress) => {
      if (broken) throw new Error("asked for an image");
      progress(10n, 100n);
      await new Promise<void>((resolve) => (finish = resolve));
      return localImage;
    },
  };
  await using host = await LoneHost.start({ images });
  const begun = await host.ensure("vm-1", 1, {}, 1);
  t.equal(begun.state, PREPARING);
  await until(() => host.manager.get("vm-1").imageBytesDone === 10n);
  finish();
  await until(() => host.manager.get("vm-1").state === RUNNING);
  broken = true;
  t.equal((await host.ensure("vm-1", 2, { power: Power.OFF })).state, STOPPED);
});

await t.test("host ports that are left to the host", async (t) => {
  await using host = await LoneHost.start();
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

await t.test("whatever comes in whatever order, the newest intent is reached", async (t) => {
  const restarts = { crashes: 1000, windowMs: 60_000 };
  await using host = await LoneHost.start({
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
  await using host = await LoneHost.start();
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

  await using other = await LoneHost.start();
  Object.assign(other.driver, { diskCopies: undefined });
  await other.ensure("vm-1", 1);
  const path = join(other.directory, "copy");
  t.equal(
    await reasonOf(other.manager.copyDisk("vm-1", path, () => undefined, never)),
    "CAPTURE_UNSUPPORTED",
  );
});
