import { create } from "@bufbuild/protobuf";
import { mkdir, mkdtemp, readlink, rm } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { deriveDomain, type Domain, type DomainFacts } from "#agent/drivers/libvirt/domain-xml.ts";
import { createLibvirtDriver } from "#agent/drivers/libvirt/driver.ts";
import { parseEvent } from "#agent/drivers/libvirt/events.ts";
import { readSerialPort } from "#agent/drivers/libvirt/foreign-console.ts";
import { describeForeign, parseDomainStats } from "#agent/drivers/libvirt/foreign.ts";
import { Gate } from "#agent/drivers/libvirt/gate.ts";
import { deriveRunAs } from "#agent/drivers/libvirt/host.ts";
import { type Binding, type FoundDomain, Library, loadBinding } from "#agent/drivers/libvirt/library.ts";
import { daemonSocket, destinationUri, meetingOf } from "#agent/drivers/libvirt/meeting.ts";
import { parseStats } from "#agent/drivers/libvirt/metrics.ts";
import { derivePendingRestart, observe, readSize, readStart } from "#agent/drivers/libvirt/observe.ts";
import { migrateCommand } from "#agent/drivers/libvirt/outgoing.ts";
import { deriveProgress, isStalled } from "#agent/drivers/libvirt/progress.ts";
import { domainPaths, ensureLinks } from "#agent/drivers/libvirt/runtime.ts";
import { createVirsh } from "#agent/drivers/libvirt/virsh.ts";
import { element, parse, render, select, textAt } from "#agent/drivers/libvirt/xml.ts";
import { deriveIdentity } from "#agent/drivers/hypervisor/identity.ts";
import { platformOf } from "#agent/drivers/hypervisor/platform.ts";
import { MachineSpecSchema } from "#gen/skerry/agent/v1/machine_pb.js";
import { MoveSchema, OnUnreachable } from "#gen/skerry/agent/v1/migration_pb.js";
import { silentLogger } from "#kernel/log.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const MiB = 1024n ** 2n;
const runtime = { here: "/elsewhere/run", there: "/run/skerry" };
const signal = AbortSignal.timeout(60_000);

const domain: Domain = {
  id: "vm-1",
  identity: deriveIdentity("vm-1"),
  paths: domainPaths(runtime, "vm-1"),
  kernel: { commandLine: `console=ttyS0 odd="<&'"` },
  ...{ vcpus: 2, maxVcpus: 8, memoryBytes: 256n * MiB, startedAtMs: 1234 },
};
const tcg: DomainFacts = { platform: platformOf("x64"), acceleration: "tcg", runAs: "+0:+0" };

await t.test("a description, whole", async (t) => {
  const identity = domain.identity;
  t.equal(
    render(deriveDomain(domain, tcg)),
    `<domain type="qemu" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>vm-1</name>
  <uuid>${identity.uuid}</uuid>
  <metadata>
    <skerry:machine xmlns:skerry="https://skerry.dev/ns/machine" id="vm-1" started-at-ms="1234"/>
  </metadata>
  <memory unit="b">268435456</memory>
  <vcpu current="2">8</vcpu>
  <os>
    <type arch="x86_64" machine="q35">hvm</type>
    <kernel>/run/skerry/vm-1/kernel</kernel>
    <initrd>/run/skerry/vm-1/initrd</initrd>
    <cmdline>console=ttyS0 odd=&quot;&lt;&amp;&apos;&quot;</cmdline>
  </os>
  <features>
    <acpi/>
    <apic/>
    <tcg>
      <tb-cache unit="MiB">64</tb-cache>
    </tcg>
  </features>
  <cpu mode="maximum"/>
  <clock offset="utc"/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <seclabel type="static" model="dac" relabel="no">
    <label>+0:+0</label>
  </seclabel>
  <devices>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" discard="unmap"/>
      <source file="/run/skerry/vm-1/root.qcow2"/>
      <target dev="vda" bus="virtio"/>
      <serial>root</serial>
    </disk>
    <disk type="file" device="disk">
      <driver name="qemu" type="raw"/>
      <source file="/run/skerry/vm-1/seed.iso"/>
      <target dev="vdb" bus="virtio"/>
      <serial>seed</serial>
      <readonly/>
    </disk>
    <interface type="user">
      <mac address="${identity.macAddress}"/>
      <ip family="ipv4" address="${identity.network.guest}" prefix="24"/>
      <model type="virtio"/>
      <rom enabled="no"/>
    </interface>
    <serial type="unix">
      <source mode="bind" path="/run/skerry/vm-1/serial.sock"/>
      <log file="/run/skerry/vm-1/console.log" append="on"/>
      <target port="0"/>
    </serial>
    <memballoon model="virtio">
      <stats period="10"/>
    </memballoon>
    <rng model="virtio">
      <backend model="builtin"/>
    </rng>
    <panic model="isa"/>
  </devices>
  <qemu:commandline>
    <qemu:arg value="-m"/>
    <qemu:arg value="268443648B"/>
    <qemu:arg value="-object"/>
    <qemu:arg value="memory-backend-ram,id=odd.ram,size=268443648"/>
    <qemu:arg value="-machine"/>
    <qemu:arg value="memory-backend=odd.ram"/>
  </qemu:commandline>
</domain>
`,
  );
});

await t.test("what differs between hosts and images", async (t) => {
  const of = (facts: Partial<DomainFacts>, change: Partial<Domain> = {}) =>
    deriveDomain({ ...domain, ...change }, { ...tcg, ...facts });
  const kvm = of({ acceleration: "kvm", runAs: undefined }, { kernel: undefined, startedAtMs: undefined });
  t.equal(kvm.attributes["type"], "kvm");
  const model = select(kvm, "cpu")[0]?.attributes;
  t.same(model, { mode: "host-model" }, "a model that another host can be asked for");
  t.same([select(kvm, "features", "tcg"), select(kvm, "qemu:commandline")], [[], []]);
  t.same(select(kvm, "seclabel"), [], "where the daemon gives no choice, none is made");
  t.same(select(kvm, "os", "boot")[0]?.attributes, { dev: "hd" });
  t.equal("started-at-ms" in (select(kvm, "metadata", "skerry:machine")[0]?.attributes ?? {}), false);
  const arm = of({ platform: platformOf("arm64") });
  t.match(select(arm, "os", "type")[0]?.attributes, { arch: "aarch64", machine: "virt" });
  t.equal(textAt(arm, "vcpu"), "2", "what cannot be plugged in gets no slots");
  t.same([select(arm, "features", "apic"), select(arm, "devices", "panic")], [[], []]);
});

await t.test("XML is read back as it was written, and libvirt's own too", async (t) => {
  const odd = element("a", { "b-c": `<"'&>` }, element("d", {}, "x < y & z\ttab"), element("e"));
  t.same(parse(render(odd)), odd);
  t.same(
    parse("<?xml version='1.0'?>\n<!-- a <b> -->\n<d id='1'>\n <n>&#x41;&#66;&apos;</n>\n</d>"),
    element("d", { id: "1" }, element("n", {}, "AB'")),
  );
  for (const wrong of ["", "no element", "<a><b></a>"])
    t.throws(() => parse(wrong), { code: "internal" }, wrong);
  t.throws(() => render(element("a", {}, "bell\u0007")), { code: "invalid" });
});

await t.test("a machine is told from its description", async (t) => {
  const described = (text: string) => ({
    ...{ uuid: "u", name: "n" },
    state: "running" as const,
    description: parse(text),
  });
  const found = described(
    `<domain type='kvm'><metadata><skerry:machine started-at-ms='5000'/></metadata>
     <memory unit='KiB'>262144</memory><vcpu placement='static' current='2'>8</vcpu></domain>`,
  );
  t.same(readSize(found), { vcpus: 2, maxVcpus: 8, memoryBytes: 256n * MiB });
  t.same(readStart(found), new Date(5000));
  t.equal(readSize(described("<domain><vcpu>4</vcpu></domain>")).vcpus, 4);
  const pending = (vcpus: number, memoryBytes: bigint) =>
    derivePendingRestart({ vcpus, memoryBytes }, readSize(found));
  t.same(pending(2, 256n * MiB), []);
  t.same(pending(2, 256n * MiB - 5n), [], "memory comes in whole mebibytes");
  t.same(pending(3, 512n * MiB), ["cpus", "memory_bytes"]);

  const spec = create(MachineSpecSchema, { vcpus: 2, memoryBytes: 256n * MiB });
  const image = { type: "disk", path: "/i", format: "raw" } as const;
  const plan = { id: "vm-1", spec, image, directory: t.testdir({}) };
  const seen = async (change: object, domain?: typeof found) =>
    (
      await observe(
        { plan, transition: undefined, isAwaited: false, lacksRoom: false, forwards: [], ...change },
        domain,
      )
    ).state;
  t.equal(await seen({}), "stopped");
  t.equal(await seen({ isAwaited: true }), "paused", "one that is to arrive stands still");
  t.equal(await seen({}, found), "running");
  t.equal(await seen({ transition: "stopping" }, found), "stopping");
  const asked = described("<domain><metadata><skerry-stop:stop/></metadata></domain>");
  t.equal(await seen({}, asked), "stopping", "asked to stop by an agent that is gone");
});

await t.test("what others made is told with every reason against adopting it", async (t) => {
  const web = (change: (text: string) => string = (text) => text): FoundDomain => ({
    ...{ uuid: "u", name: "it's", state: "running" },
    description: parse(
      change(`<domain type='kvm'><memory unit='KiB'>1048576</memory><vcpu>2</vcpu><devices>
        <disk type='file' device='disk'><driver type='qcow2'/><source file='/d/w'/><target dev='sda'/></disk>
        <disk type='file' device='cdrom'><target dev='sdb'/><readonly/></disk>
        <interface type='network'/><graphics type='vnc'/>
        <serial type='pty'><source path='/dev/pts/7'/></serial>
        </devices></domain>`),
    ),
  });
  const stats = (bytes = "2000000000") =>
    parseDomainStats(
      `Domain: 'other'\n  block.0.name=sda\n  block.0.capacity=1\n\nDomain: 'it's'\n  block.count=2\n` +
        `  block.0.name=sdb\n  block.0.capacity=5\n  block.1.name=sda\n  block.1.capacity=${bytes}\n\n`,
    );
  t.same(describeForeign(web(), stats()), {
    ...{ uuid: "u", name: "it's", state: "running", vcpus: 2, memoryBytes: 1024n * MiB },
    disks: [{ target: "sda", format: "qcow2", sizeBytes: 2_000_000_000n }],
    obstacles: [],
  });
  t.same(readSerialPort(web()), { type: "pty", path: "/dev/pts/7" });
  t.equal(readSerialPort({ ...web(), state: "off" }), undefined);
  const add = (devices: string) => web((text) => text.replace("<devices>", `<devices>${devices}`));
  const codes = (found: FoundDomain, all = stats()) =>
    describeForeign(found, all).obstacles.map(({ code }) => code);
  const mark = `<metadata><skerry:machine id='vm-other'/></metadata><memory`;
  for (const [found, wanted] of [
    [add("<hostdev mode='subsystem' type='pci'/>"), ["passthrough"]],
    [add("<interface type='bridge'/><filesystem/>"), ["shared_folders", "nics"]],
    [web((text) => text.replace("'file' device='disk'", "'network' device='disk'")), ["disk_type"]],
    [add("<disk type='block' device='disk'><target dev='sdc'/></disk>"), ["disks", "disk_size"]],
    [{ ...web(), state: "paused" }, ["paused"]],
    [web((text) => text.replace("'kvm'", "'xen'").replace("1048576", "4096")), ["memory", "hypervisor"]],
    [web((text) => text.replace("<memory", mark)), ["adopted"]],
  ] as const)
    t.same(codes(found), wanted, wanted.join());
  t.same(codes(web(), new Map()), ["transient", "disk_size"], "libvirt would forget it");
  t.same(codes(web(), stats("0")), ["disk_size"]);
});

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
