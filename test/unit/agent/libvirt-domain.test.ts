/** How libvirt describes machines: what is written of ours, and what is read of those and of what others made. */
import { create } from "@bufbuild/protobuf";
import t from "tap";
import { deriveDomain, type Domain, type DomainFacts } from "#agent/drivers/libvirt/domain-xml.ts";
import { readSerialPort } from "#agent/drivers/libvirt/foreign-console.ts";
import { describeForeign, parseDomainStats } from "#agent/drivers/libvirt/foreign.ts";
import type { FoundDomain } from "#agent/drivers/libvirt/library.ts";
import { derivePendingRestart, observe, readSize, readStart } from "#agent/drivers/libvirt/observe.ts";
import { domainPaths } from "#agent/drivers/libvirt/runtime.ts";
import { element, parse, render, select, textAt } from "#agent/drivers/libvirt/xml.ts";
import { deriveIdentity } from "#agent/drivers/hypervisor/identity.ts";
import { platformOf } from "#agent/drivers/hypervisor/platform.ts";
import { MachineSpecSchema } from "#gen/skerry/agent/v1/machine_pb.js";

const MiB = 1024n ** 2n;
const runtime = { here: "/elsewhere/run", there: "/run/skerry" };

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
