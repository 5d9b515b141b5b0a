/** The libvirt driver's parts between an agent and the daemon: what is told, how moves are asked for, and its library. */
import { create } from "@bufbuild/protobuf";
import { mkdir, mkdtemp, readlink, rm } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { createLibvirtDriver } from "#agent/drivers/libvirt/driver.ts";
import { parseEvent } from "#agent/drivers/libvirt/events.ts";
import { Gate } from "#agent/drivers/libvirt/gate.ts";
import { deriveRunAs } from "#agent/drivers/libvirt/host.ts";
import { type Binding, Library, loadBinding } from "#agent/drivers/libvirt/library.ts";
import { daemonSocket, destinationUri, meetingOf } from "#agent/drivers/libvirt/meeting.ts";
import { parseStats } from "#agent/drivers/libvirt/metrics.ts";
import { migrateCommand } from "#agent/drivers/libvirt/outgoing.ts";
import { deriveProgress, isStalled } from "#agent/drivers/libvirt/progress.ts";
import { ensureLinks } from "#agent/drivers/libvirt/runtime.ts";
import { createVirsh } from "#agent/drivers/libvirt/virsh.ts";
import { MoveSchema, OnUnreachable } from "#gen/skerry/agent/v1/migration_pb.js";
import { silentLogger } from "#kernel/log.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const runtime = { here: "/elsewhere/run", there: "/run/skerry" };
const signal = AbortSignal.timeout(60_000);

await t.test("events and statistics are read from what virsh prints", async (t) => {
  const told = (name: string, what: string) => `event 'lifecycle' for domain '${name}': ${what}`;
  const table: readonly (readonly [string, unknown])[] = [
    [told("vm-1", "Stopped Failed"), { name: "vm-1", event: "Stopped", detail: "Failed" }],
    [told("it's", "Crashed Panicked"), { name: "it's", event: "Crashed", detail: "Panicked" }],
    ["event 'block-job' for domain 'vm-1': Block Copy for x ready", undefined],
    ["events received: 1", undefined],
  ];
  for (const [line, event] of table) t.same(parseEvent(line), event, line);
  const stats = parseStats("Domain: 'x'\n  cpu.time=12\nmemory_total: 34\n\n");
  t.same([stats.get("cpu.time"), stats.get("memory_total")], ["12", "34"]);
});

await t.test("how a move goes is told from libvirt's job", async (t) => {
  const stats = parseStats(
    "memory_total: 1000\nmemory_remaining: 100\ndisk_total: 500\ndisk_remaining: 50\nmemory_iteration: 3\n" +
      "memory_constant: 2\nmemory_page_size: 4096\nmemory_dirty_rate: 1\nmemory_bps: 7\ndowntime: 42",
  );
  const view = { stats, maxDowntimeMs: 300, stoppedAtMs: undefined };
  t.same(deriveProgress({ ...view, phase: "pre-copy" }), {
    ...{ phase: "pre-copy", bytesTotal: 1500, bytesRemaining: 150, zeroBytes: 8192, dirtyRate: 4096 },
    ...{ throughput: 7, rounds: 3, predictedDowntimeMs: 300 },
  });
  t.match(deriveProgress({ ...view, phase: "handed-over", stoppedAtMs: 9 }), {
    stoppedAtMs: 9,
    stoppedMs: 42,
  });
  t.equal(
    deriveProgress({ ...view, phase: "disk-copy", stats: new Map() }).bytesTotal,
    0,
    "nothing is told yet",
  );
  const round = (iteration: number, remaining: number) =>
    isStalled(parseStats(`memory_iteration: ${String(iteration)}\nmemory_remaining: ${String(remaining)}`));
  t.same([round(3, 1), round(31, 1), round(31, 0)], [false, true, false]);
});

await t.test("a move names the same paths on both hosts", async (t) => {
  const meeting = meetingOf(runtime, "vm-1");
  t.equal(meeting.here("disk:root"), "/elsewhere/run/moves/vm-1/root.sock");
  t.equal(await reasonOf(() => meeting.there("disk:/etc")), "NO_SUCH_CHANNEL");
  const move = create(MoveSchema, { onUnreachable: OnUnreachable.THROTTLE });
  const command = migrateCommand({ uuid: "u", uri: "qemu:///system", move, meeting }).join(" ");
  t.equal(
    command,
    "migrate u --live --p2p --persistent --suspend --copy-storage-inc --auto-converge --migrate-disks vda " +
      "--desturi qemu+unix:///system?socket=/run/skerry/moves/vm-1/libvirt.sock " +
      "--migrateuri unix:/run/skerry/moves/vm-1/memory.sock --disks-uri unix:/run/skerry/moves/vm-1/root.sock",
  );
  const sockets: readonly (readonly [string, string])[] = [
    ["qemu:///system", "/run/libvirt/libvirt-sock"],
    ["qemu:///session", "/run/user/7/libvirt/libvirt-sock"],
    ["qemu+unix:///session?socket=/x/y", "/x/y"],
  ];
  for (const [uri, path] of sockets)
    t.equal(daemonSocket(uri, { XDG_RUNTIME_DIR: "/run/user/7" }), path, uri);
  t.equal(destinationUri("qemu:///session", "/s"), "qemu+unix:///session?socket=/s");
});

await t.test("links lead from the paths that libvirt knows to where things are", async (t) => {
  const here = join(t.testdir({}), "run");
  const directory = join(here, "..", "machine");
  await mkdir(directory);
  const image = { type: "kernel", kernelPath: "/k", initrdPath: "/i", commandLine: "" } as const;
  for (let again = 0; again < 2; again++)
    await ensureLinks({ here, there: "/run/skerry" }, { id: "vm-1", directory, image });
  t.equal(await readlink(join(here, "vm-1")), directory);
  t.equal(await readlink(join(here, "vm-1", "kernel")), "/k");
});

await t.test("the gate takes a connection at once and lets nothing through until it is opened", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "gate-")); // short: sockets are made in it
  t.teardown(() => rm(folder, { recursive: true }));
  const behind: Socket[] = [];
  const received: Buffer[] = [];
  const server = createServer((socket) => {
    behind.push(socket);
    socket.on("data", (chunk: Buffer) => received.push(chunk));
  }).listen(join(folder, "behind"));
  t.teardown(() => void server.close());
  let knocks = 0;
  const gate = await Gate.listen(join(folder, "gate"), () => knocks++);
  t.same([gate.hasKnocked, gate.isOpen], [false, false]);
  const guest = connect(join(folder, "gate"));
  guest.write("memory");
  await until(() => gate.hasKnocked);
  t.same([knocks, behind.length], [1, 0]);
  gate.open(join(folder, "behind"));
  await until(() => Buffer.concat(received).toString() === "memory");
  guest.resume();
  const ended = new Promise((resolve) => guest.once("close", resolve));
  behind[0]?.destroy();
  await ended;
  t.pass("a break on one side is one on the other");
  t.equal(gate.hasKnocked, true, "that somebody came is not forgotten");
  await gate[Symbol.asyncDispose]();
});

await t.test("what is missing on the host is told at the start", async (t) => {
  const missing = () => Promise.reject(new Error("Cannot find package"));
  t.equal(await reasonOf(loadBinding(missing)), "LIBVIRT_LIBRARY_MISSING");
  t.equal(await reasonOf(createVirsh("x:///", "/no/virsh").run(["version"], { signal })), "PROGRAM_MISSING");
  const stateDirectory = t.testdir({});
  const uri = `qemu+unix:///system?socket=${stateDirectory}/none`;
  const reason = await reasonOf(createLibvirtDriver({ uri, stateDirectory, log: silentLogger }));
  // What is looked for first depends on what this machine has; each is a fault with a name, and none a crash.
  t.match(reason, /^(LIBVIRT_UNREACHABLE|LIBVIRT_LIBRARY_MISSING|PROGRAM_MISSING)$/);
});

await t.test("QEMU runs as we do where the daemon lets us choose", async (t) => {
  const capabilities = (model: string) => `<c><host><secmodel><model>${model}</model></secmodel></host></c>`;
  t.equal(deriveRunAs(capabilities("none")), undefined);
  t.match(deriveRunAs(capabilities("dac")), /^\+\d+:\+\d+$/);
});

await t.test(
  "the library: one question at a time, a limit for each, and a fresh connection after a break",
  async (t) => {
    // Limits do not keep a process alive; in the agent, the call that hangs does.
    const alive = setInterval(() => undefined, 1000);
    t.teardown(() => clearInterval(alive));
    const world = {
      opened: 0,
      atOnce: 0,
      most: 0,
      broken: false,
      hangs: false,
      free: () => undefined as void,
    };
    const bound = {
      getInfo: async () => ({ state: 3 }),
      getXMLDesc: async () => "<domain type='kvm'/>",
      getName: async () => "vm-1",
      getUUIDString: async () => "u",
    };
    class Hypervisor {
      async connectOpen() {
        world.opened++;
        world.broken = false;
      }
      async connectClose() {
        await Promise.resolve();
      }
      async connectListAllDomains() {
        return [bound];
      }
      async domainLookupByUUIDString(uuid: string) {
        world.most = Math.max(world.most, ++world.atOnce);
        await (world.hangs ? new Promise<void>((resolve) => (world.free = resolve)) : Promise.resolve());
        world.atOnce--;
        if (world.broken) throw new Error("client socket is closed");
        if (uuid === "none") throw new Error("Domain not found: no domain with matching uuid");
        return bound;
      }
    }
    const binding: Binding = { Hypervisor };
    const library = new Library({ binding, uri: "qemu:///system", limitMs: 50 });
    t.match(await library.find("u", signal), { state: "paused", name: "vm-1" });
    t.equal(await library.find("none", signal), undefined);
    t.equal((await library.list(signal)).length, 1);
    await Promise.all([1, 2, 3].map(() => library.find("u", signal)));
    t.equal(world.most, 1);
    const before = world.opened;
    world.broken = true;
    t.match(await library.find("u", signal), { state: "paused" });
    t.equal(world.opened, before + 1, "the daemon was started anew meanwhile");
    world.hangs = true;
    t.equal(await reasonOf(library.find("u", signal)), "TIMEOUT");
    world.hangs = false;
    t.equal(await reasonOf(library.find("u", signal)), "TIMEOUT", "nobody gets ahead of a call that hangs");
    world.free();
    t.match(await library.find("u", signal), { state: "paused" }, "when it is back, so are we");
    await library.close();
  },
);
