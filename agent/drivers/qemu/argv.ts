/**
 * QEMU's argument vector, as a list of small pure configurators. Nothing that a user chose gets in here, and paths only
 * where QEMU takes them whole (JSON, or an argument of their own): its `key=value` lists give commas a meaning.
 * Relative names (sockets, console log) are in the machine's folder, which is QEMU's working directory at start.
 */
import { consoleLogName, monitorSocketNames, serialSocketName } from "../hypervisor/files.ts";
import { cpuOf } from "../hypervisor/model.ts";
import type { Platform } from "../hypervisor/platform.ts";
import { hotMemoryBlockBytes, type Launch } from "./launch.ts";

export interface LaunchFacts {
  readonly platform: Platform;
  readonly acceleration: "kvm" | "tcg";
}

export class Argv {
  readonly args: string[] = [];

  flag(name: string, ...value: readonly string[]): void {
    this.args.push(`-${name}`, ...value);
  }

  /** `first,key=value,...`; commas in values are doubled, as QEMU wants them. */
  list(name: string, first: string, values: Readonly<Record<string, string | number>> = {}): void {
    const pairs = Object.entries(values).map(
      ([key, value]) => `${key}=${String(value).replaceAll(",", ",,")}`,
    );
    this.flag(name, [first, ...pairs].filter((part) => part !== "").join(","));
  }

  json(name: string, value: object): void {
    this.flag(name, JSON.stringify(value));
  }
}

export type Configurator = (launch: Launch, facts: LaunchFacts, out: Argv) => void;

const process: Configurator = (launch, _facts, out) => {
  out.list("name", launch.id);
  out.flag("uuid", launch.identity.uuid);
  out.flag("no-user-config");
  out.flag("nodefaults");
  out.flag("display", "none");
  out.flag("daemonize");
  out.flag("pidfile", launch.files.pidFile);
  out.flag("D", launch.files.qemuLog);
  // Its stricter forms (no fork, no setsid) forbid `daemonize` itself.
  out.flag("sandbox", "on");
};

const state: Configurator = ({ begins }, _facts, out) => {
  if (begins === "boot") return;
  // It stands still until it is told to run.
  out.flag("S");
  if (begins === "incoming") out.flag("incoming", "defer");
};

const machine: Configurator = ({ shape }, { platform, acceleration }, out) => {
  out.flag("machine", `${shape.machineType}${platform.machineOptions}`);
  // The default cache of translated code is a quarter of what it emulates, up to a gigabyte for each machine.
  out.flag("accel", acceleration === "kvm" ? "kvm" : "tcg,tb-size=64");
  out.flag("cpu", cpuOf(shape.cpuModel));
  out.list("rtc", "", { base: "utc" });
};

const cpus: Configurator = ({ shape }, { platform }, out) => {
  const maxcpus = platform.hotplug ? shape.maxVcpus : shape.vcpus;
  out.list("smp", "", { cpus: shape.vcpus, maxcpus, sockets: 1, cores: maxcpus, threads: 1 });
};

/**
 * Under emulation the guest gets a little more than it is told of. QEMU before 9.0 forgets, for memory that is a whole
 * number of 256 KiB long, to make translated code notice writes again after a round of a migration: pages are left
 * behind, and the guest's kernel falls over some time after the move. Memory of any other length takes a path that does.
 */
const oddMemoryBytes = 8192n;

const memory: Configurator = ({ shape }, { platform, acceleration }, out) => {
  const hot = platform.hotplug ? shape.hotMemoryBytes : 0n;
  const bytes = shape.memoryBytes + (acceleration === "tcg" ? oddMemoryBytes : 0n);
  const size = `${String(bytes)}B`;
  if (hot === 0n) {
    out.list("m", "", { size });
    return;
  }
  out.list("m", "", { size, maxmem: `${String(bytes + hot)}B` });
  const backend = { "qom-type": "memory-backend-ram", id: "hot-memory", size: Number(hot), reserve: false };
  out.json("object", backend);
  out.list("device", "virtio-mem-pci", {
    id: "memory0",
    memdev: "hot-memory",
    "block-size": Number(hotMemoryBlockBytes),
    "requested-size": 0,
  });
};

const disks: Configurator = (launch, _facts, out) => {
  // QEMU's own choice follows the vCPUs, which may have become more by the time that the machine moves.
  const queues = { "num-queues": launch.shape.queues };
  out.json("blockdev", {
    driver: "qcow2",
    "node-name": "root",
    discard: "unmap",
    file: { driver: "file", filename: launch.files.rootDisk, discard: "unmap" },
  });
  const root = { id: "disk0", drive: "root", bootindex: 1, serial: "root" };
  out.list("device", "virtio-blk-pci", { ...root, ...queues });
  out.json("blockdev", {
    driver: "raw",
    "node-name": "seed",
    "read-only": true,
    file: { driver: "file", filename: launch.files.seed, "read-only": true },
  });
  out.list("device", "virtio-blk-pci", { id: "disk1", drive: "seed", serial: "seed", ...queues });
};

const boot: Configurator = ({ image }, { platform }, out) => {
  if (image.type === "kernel") {
    out.flag("kernel", image.kernelPath);
    out.flag("initrd", image.initrdPath);
    // Without the option, room for memory to come costs the guest 64 MiB: see `launch.ts`.
    out.flag("append", `${image.commandLine} swiotlb=noforce`.trim());
  }
  // For kernels as well: without it ARM guests have no ACPI, and so no power button to ask them to stop with.
  if (platform.firmware !== undefined) out.flag("bios", platform.firmware);
};

const network: Configurator = ({ identity }, _facts, out) => {
  const { cidr, router, nameServer, guest } = identity.network;
  // Forwards are added over the monitor: the same way at the start and later.
  out.list("netdev", "user", { id: "net0", net: cidr, host: router, dns: nameServer, dhcpstart: guest });
  // No boot from the network: its ROM costs half a second of every start.
  out.list("device", "virtio-net-pci", {
    id: "nic0",
    netdev: "net0",
    mac: identity.macAddress,
    romfile: "",
  });
};

const monitors: Configurator = (_launch, _facts, out) => {
  for (const [index, path] of monitorSocketNames.entries()) {
    const id = `monitor${String(index)}`;
    out.list("chardev", "socket", { id, path, server: "on", wait: "off" });
    out.list("mon", "", { chardev: id, mode: "control" });
  }
};

const serial: Configurator = (_launch, _facts, out) => {
  out.list("chardev", "socket", {
    id: "serial0",
    path: serialSocketName,
    server: "on",
    wait: "off",
    logfile: consoleLogName,
    logappend: "on",
  });
  out.flag("serial", "chardev:serial0");
};

const extras: Configurator = (_launch, { platform }, out) => {
  out.list("object", "rng-builtin", { id: "rng" });
  out.list("device", "virtio-rng-pci", { id: "rng0", rng: "rng" });
  // Only read from: the guest tells through it how much of its memory it uses.
  out.list("device", "virtio-balloon-pci", { id: "balloon0" });
  // A guest that panics ends, with a reason, instead of standing still.
  if (platform.panicDevice !== undefined) out.list("device", platform.panicDevice, { id: "panic0" });
};

const hotplugPorts: Configurator = (_launch, { platform }, out) => {
  for (let slot = 1; slot <= platform.hotplugPorts; slot++) {
    out.list("device", "pcie-root-port", { id: `port${String(slot)}`, chassis: slot, slot });
  }
};

const configurators: readonly Configurator[] = [
  process,
  state,
  machine,
  cpus,
  memory,
  disks,
  boot,
  network,
  monitors,
  serial,
  extras,
  hotplugPorts,
];

/** The whole argument vector, without the program. Pure. */
export function deriveArgv(launch: Launch, facts: LaunchFacts): string[] {
  const out = new Argv();
  for (const configure of configurators) configure(launch, facts, out);
  return out.args;
}
