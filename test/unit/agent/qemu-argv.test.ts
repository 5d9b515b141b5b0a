import { create } from "@bufbuild/protobuf";
import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { proveAcceleration } from "#agent/drivers/hypervisor/accel.ts";
import { deriveArgv } from "#agent/drivers/qemu/argv.ts";
import type { LocalImage, MachinePlan } from "#agent/drivers/driver.ts";
import { parseForwards } from "#agent/drivers/hypervisor/forwards.ts";
import { hostFault } from "#agent/drivers/hypervisor/host-fault.ts";
import { deriveHotMemory, derivePendingRestart } from "#agent/drivers/qemu/hotplug.ts";
import { deriveIdentity } from "#agent/drivers/hypervisor/identity.ts";
import { deriveLaunch, deriveShape, type Launch } from "#agent/drivers/qemu/launch.ts";
import { platformOf } from "#agent/drivers/hypervisor/platform.ts";
import { deriveSeed } from "#agent/drivers/hypervisor/seed.ts";
import { type MachineSpec, MachineSpecSchema } from "#gen/skerry/agent/v1/machine_pb.js";
import { reasonOf } from "#test/support/reason-of.ts";

const MiB = 1024n ** 2n;
const GiB = 1024n ** 3n;
const kernel: LocalImage = {
  type: "kernel",
  kernelPath: "/i/a,b/vmlinuz",
  initrdPath: "/i/initrd",
  commandLine: "console=ttyS0",
};
const disk: LocalImage = { type: "disk", path: "/i/base", format: "qcow2" };

function planOf(image: LocalImage, change: Partial<MachineSpec> = {}): MachinePlan {
  const spec = create(MachineSpecSchema, { vcpus: 1, memoryBytes: 512n * MiB, diskBytes: GiB });
  return { id: "vm-1", spec: Object.assign(spec, change), image, directory: `/m/it's, "x"` };
}

function argvOf(
  plan: MachinePlan,
  architecture = "x64",
  acceleration: "kvm" | "tcg" = "tcg",
  begins: Launch["begins"] = "boot",
): string[][] {
  const platform = platformOf(architecture);
  const model = {
    machineType: `${platform.machine}-7.2`,
    cpuModel: acceleration === "kvm" ? "host-1" : "max-7.2",
  };
  const launch = deriveLaunch(plan, deriveShape(plan, model), begins);
  const argv = deriveArgv(launch, { platform, acceleration });
  const options: string[][] = [];
  for (const arg of argv) {
    if (arg.startsWith("-")) options.push([arg]);
    else options.at(-1)?.push(arg);
  }
  return options;
}

const uuid = deriveIdentity("vm-1").uuid;
const net = deriveIdentity("vm-1").network;
const mac = deriveIdentity("vm-1").macAddress;
const folder = `/m/it's, "x"`;
const port = (n: number) => [
  "-device",
  `pcie-root-port,id=port${String(n)},chassis=${String(n)},slot=${String(n)}`,
];
const monitor = (n: number, path: string) => [
  ["-chardev", `socket,id=monitor${String(n)},path=${path},server=on,wait=off`],
  ["-mon", `chardev=monitor${String(n)},mode=control`],
];

const whole = [
  ["-name", "vm-1"],
  ["-uuid", uuid],
  ["-no-user-config"],
  ["-nodefaults"],
  ["-display", "none"],
  ["-daemonize"],
  ["-pidfile", `${folder}/qemu.pid`],
  ["-D", `${folder}/qemu.log`],
  ["-sandbox", "on"],
  ["-machine", "q35-7.2"],
  ["-accel", "tcg,tb-size=64"],
  ["-cpu", "max"],
  ["-rtc", "base=utc"],
  ["-smp", "cpus=1,maxcpus=8,sockets=1,cores=8,threads=1"],
  ["-m", "size=536879104B,maxmem=2147491840B"],
  ["-object", `{"qom-type":"memory-backend-ram","id":"hot-memory","size":1610612736,"reserve":false}`],
  ["-device", "virtio-mem-pci,id=memory0,memdev=hot-memory,block-size=4194304,requested-size=0"],
  [
    "-blockdev",
    `{"driver":"qcow2","node-name":"root","discard":"unmap","file":{"driver":"file","filename":"/m/it's, \\"x\\"/root.qcow2","discard":"unmap"}}`,
  ],
  ["-device", "virtio-blk-pci,id=disk0,drive=root,bootindex=1,serial=root,num-queues=1"],
  [
    "-blockdev",
    `{"driver":"raw","node-name":"seed","read-only":true,"file":{"driver":"file","filename":"/m/it's, \\"x\\"/seed.iso","read-only":true}}`,
  ],
  ["-device", "virtio-blk-pci,id=disk1,drive=seed,serial=seed,num-queues=1"],
  ["-kernel", "/i/a,b/vmlinuz"],
  ["-initrd", "/i/initrd"],
  ["-append", "console=ttyS0 swiotlb=noforce"],
  ["-netdev", `user,id=net0,net=${net.cidr},host=${net.router},dns=${net.nameServer},dhcpstart=${net.guest}`],
  ["-device", `virtio-net-pci,id=nic0,netdev=net0,mac=${mac},romfile=`],
  ...monitor(0, "monitor.sock"),
  ...monitor(1, "monitor-spare.sock"),
  ["-chardev", "socket,id=serial0,path=serial.sock,server=on,wait=off,logfile=console.log,logappend=on"],
  ["-serial", "chardev:serial0"],
  ["-object", "rng-builtin,id=rng"],
  ["-device", "virtio-rng-pci,id=rng0,rng=rng"],
  ["-device", "virtio-balloon-pci,id=balloon0"],
  ["-device", "pvpanic-pci,id=panic0"],
  port(1),
  port(2),
  port(3),
  port(4),
];

/** The whole vector with some options replaced, or taken out by replacing them with nothing. */
function but(changes: Readonly<Record<string, string[][]>>): string[][] {
  return whole.flatMap((option) => {
    const [key] = Object.keys(changes).filter((start) => option.join(" ").startsWith(start));
    return key === undefined ? [option] : (changes[key] ?? []);
  });
}

const noHotMemory = { "-object {": [], "-device virtio-mem": [] };
const noKernel = { "-kernel": [], "-initrd": [], "-append": [] };

await t.test("the whole argument vector", async (t) => {
  t.same(argvOf(planOf(kernel)), whole, "a kernel image under emulation");
  const hostile = { name: "-device x,y", hostname: '"', userData: "$(x)", sshKeys: ["a,b"] };
  t.same(argvOf(planOf(kernel, hostile)), whole, "nothing that a user chose is in it");
  t.same(
    argvOf(planOf(disk), "x64", "kvm"),
    but({
      ...noHotMemory,
      ...noKernel,
      "-accel": [["-accel", "kvm"]],
      "-cpu": [["-cpu", "host"]],
      "-m ": [["-m", "size=536870912B"]],
    }),
    "a small disk image with KVM: no room for memory, which would cost it an eighth of what it has",
  );
  t.same(
    argvOf(planOf(disk, { vcpus: 4 }), "arm64"),
    but({
      ...noHotMemory,
      "-kernel": [],
      "-initrd": [],
      "-append": [["-bios", "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"]],
      "-machine": [["-machine", "virt-7.2,gic-version=max"]],
      "-device virtio-blk-pci,id=disk0": [
        ["-device", "virtio-blk-pci,id=disk0,drive=root,bootindex=1,serial=root,num-queues=4"],
      ],
      "-device virtio-blk-pci,id=disk1": [
        ["-device", "virtio-blk-pci,id=disk1,drive=seed,serial=seed,num-queues=4"],
      ],
      "-smp": [["-smp", "cpus=4,maxcpus=4,sockets=1,cores=4,threads=1"]],
      "-m ": [["-m", "size=536879104B"]],
    }),
    "a disk image on ARM, where nothing can be plugged in",
  );
  const kernelOnArm = argvOf(planOf(kernel), "arm64").map(([flag]) => flag);
  t.same(
    kernelOnArm.filter((flag) => flag === "-bios" || flag === "-kernel"),
    ["-kernel", "-bios"],
    "a kernel on ARM with the firmware that brings its power button",
  );
  t.equal(await reasonOf(() => platformOf("mips")), "ARCHITECTURE_UNSUPPORTED");
});

await t.test("room to grow", async (t) => {
  const cases: [number, bigint, LocalImage, number, bigint][] = [
    [1, 64n * MiB, kernel, 8, 256n * MiB],
    [4, 512n * MiB, kernel, 16, 1536n * MiB],
    [32, 1n * GiB, disk, 64, 3n * GiB],
    [100, 300n * GiB, disk, 100, 212n * GiB],
    [1, 600n * GiB, disk, 8, 0n],
    [1, 1023n * MiB, disk, 8, 0n],
  ];
  for (const [vcpus, memoryBytes, image, maxVcpus, hotMemoryBytes] of cases) {
    const launch = deriveShape(planOf(image, { vcpus, memoryBytes }), { machineType: "", cpuModel: "" });
    t.match(launch, { maxVcpus, hotMemoryBytes }, `${String(vcpus)} vCPUs, ${String(memoryBytes)} bytes`);
  }
});

await t.test("identity: the same for an id, another for another", async (t) => {
  const ids = Array.from({ length: 50 }, (_, index) => deriveIdentity(`vm-${String(index)}`));
  t.same(deriveIdentity("vm-7"), ids[7]);
  for (const pick of ["uuid", "macAddress"] as const)
    t.equal(new Set(ids.map((id) => id[pick])).size, 50, pick);
  t.match(ids[0], {
    uuid: /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
    macAddress: /^52:54:00(:[0-9a-f]{2}){3}$/,
    network: { cidr: /^10\.\d+\.\d+\.0\/24$/, guest: /^10\.\d+\.\d+\.15$/ },
  });
  t.ok(new Set(ids.map((id) => id.network.cidr)).size > 45, "networks differ");
});

await t.test("seed", async (t) => {
  const machine = { id: "vm-1", macAddress: mac };
  const seed = deriveSeed(machine, {
    hostname: "web-1",
    sshKeys: ['ssh-rsa AA "me", you'],
    userData: "#!/bin/sh\n'",
  });
  t.same(seed, {
    "meta-data": `instance-id: "vm-1"\nlocal-hostname: web-1\npublic-keys:\n  - "ssh-rsa AA \\"me\\", you"\n`,
    "user-data": "#!/bin/sh\n'",
    "network-config": `{"version":2,"ethernets":{"primary":{"match":{"macaddress":"${mac}"},"dhcp4":true}}}\n`,
  });
  const bare = deriveSeed(machine, { hostname: "", sshKeys: [], userData: "" });
  t.equal(bare["meta-data"], `instance-id: "vm-1"\nlocal-hostname: vm-1\n`);
  for (const hostname of ["a b", "a\nb: c", "-a", "x".repeat(64), "ü"]) {
    t.equal(
      await reasonOf(() => deriveSeed(machine, { hostname, sshKeys: [], userData: "" })),
      "SEED_INVALID",
    );
  }
  const twoLines = { hostname: "a", sshKeys: ["ssh-rsa A\nuser: root"], userData: "" };
  t.equal(await reasonOf(() => deriveSeed(machine, twoLines)), "SEED_INVALID");
});

await t.test("what waits for a restart", async (t) => {
  const memory = (pluggedMiB: bigint) => ({
    bootBytes: 128n * MiB,
    pluggedBytes: pluggedMiB * MiB,
    requestedBytes: 0n,
    pluggableBytes: 384n * MiB,
  });
  const cases: [number, bigint, number, bigint, string[]][] = [
    [1, 128n * MiB, 1, 0n, []],
    [2, 256n * MiB, 2, 128n, []],
    [2, 129n * MiB, 2, 4n, []],
    [1, 256n * MiB, 2, 64n, ["cpus", "memory_bytes"]],
    [9, 100n * MiB, 8, 0n, ["cpus", "memory_bytes"]],
    [1, 4n * GiB, 1, 384n, ["memory_bytes"]],
    [1, 128n * MiB, 1, 128n, ["memory_bytes"]],
  ];
  for (const [vcpus, memoryBytes, present, plugged, pending] of cases) {
    const found = { vcpus: present, memory: memory(plugged) };
    t.same(
      derivePendingRestart({ vcpus, memoryBytes }, found),
      pending,
      String([vcpus, memoryBytes, plugged]),
    );
  }
  t.equal(deriveHotMemory(memory(0n), 64n * MiB), 0n);
  t.equal(deriveHotMemory(memory(0n), 129n * MiB), 4n * MiB);
  t.equal(deriveHotMemory(memory(0n), 4n * GiB), 384n * MiB, "no more than there is room for");
});

await t.test("forwards as QEMU lists them", async (t) => {
  const text = [
    "Hub -1 (net0):\r",
    "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r",
    "  TCP[HOST_FORWARD]  21       127.0.0.1 20022      10.66.1.15    22     0     0\r",
    "  TCP[ESTABLISHED]   25      10.66.1.15 40000        10.0.0.9   443     0     0\r",
    "  UDP[HOST_FORWARD]  22               *  5353      10.66.1.15    53     0     0\r",
  ].join("\n");
  t.same(parseForwards(text), [
    { protocol: "tcp", guestPort: 22, hostPort: 20022, hostAddress: "127.0.0.1" },
    { protocol: "udp", guestPort: 53, hostPort: 5353, hostAddress: "0.0.0.0" },
  ]);
  t.same(parseForwards(""), []);
});

await t.test("a full disk is told as such, wherever it shows", async (t) => {
  const full = Object.assign(new Error("write failed"), { code: "ENOSPC" });
  t.match(hostFault(full, "x"), { code: "exhausted", reason: "HOST_DISK_FULL" });
  const unknown = hostFault(new Error("/a/path broke"), "the seed cannot be made");
  t.match(unknown, { code: "internal", reason: "HOST_TOOL_FAILED", message: "the seed cannot be made" });
});

await t.test("acceleration is proved, and remembered for this kernel and QEMU", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "accel-"));
  t.teardown(() => rm(folder, { recursive: true }));
  const signal = AbortSignal.timeout(60_000);
  const verdictFile = join(folder, "verdict.json");
  const devicePath = join(folder, "kvm");
  const boots = join(folder, "boots");
  const program = join(folder, "qemu");
  const guestSays = async (text: string) => {
    await writeFile(program, `#!/bin/sh\necho boot >>'${boots}'\n${text}\n`);
    await chmod(program, 0o755);
  };
  const probe = (qemuVersion: string) =>
    proveAcceleration(
      {
        platform: { ...platformOf("x64"), program },
        qemuVersion,
        verdictFile,
        devicePath,
        guest: async () => kernel,
      },
      signal,
    );
  const bootCount = async () => (await readFile(boots, "utf8")).split("\n").length - 1;

  t.match(await probe("1"), { acceleration: "tcg", reason: /no \/dev\/kvm/ });
  await writeFile(devicePath, "");
  await guestSays("echo 'SeaBIOS'; echo '[0.0] Linux version 6.1'; exec sleep 60");
  t.match(await probe("1"), { acceleration: "kvm" });
  await guestSays("exit 1");
  t.match(await probe("1"), { acceleration: "kvm" }, "the verdict is remembered");
  t.equal(await bootCount(), 1);
  t.match(await probe("2"), { acceleration: "tcg", reason: /cannot use it/ }, "another QEMU is tried anew");
  t.equal(await bootCount(), 2);
  await writeFile(verdictFile, '{"torn');
  await guestSays("echo 'Linux version'; exec sleep 60");
  t.match(await probe("2"), { acceleration: "kvm" }, "a torn verdict is no verdict");
});
