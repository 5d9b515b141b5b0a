/**
 * A machine as libvirt's domain XML, from a list of small pure configurators. Every path in it is one that is the same
 * on every host (see `runtime.ts`): a description can move as it is, and libvirt insists on that when a guest does.
 */
import type { MachineIdentity } from "../hypervisor/identity.ts";
import type { Platform } from "../hypervisor/platform.ts";
import { type Element, element } from "./xml.ts";
import type { DomainPaths } from "./runtime.ts";

export interface Domain {
  readonly id: string;
  readonly identity: MachineIdentity;
  readonly paths: DomainPaths;
  /** Undefined for machines that boot from their disk. */
  readonly kernel: { readonly commandLine: string } | undefined;
  readonly vcpus: number;
  /** Most that can be plugged in. */
  readonly maxVcpus: number;
  readonly memoryBytes: bigint;
  /** When it was described for a start, which is when it starts. */
  readonly startedAtMs: number | undefined;
}

export interface DomainFacts {
  readonly platform: Platform;
  readonly acceleration: "kvm" | "tcg";
  /** Who runs QEMU, `+uid:+gid`, where the daemon lets us say so; undefined: whom the daemon runs it as. */
  readonly runAs: string | undefined;
}

/** What marks a domain as ours, in its metadata. */
export const metadataNamespace = "https://skerry.dev/ns/machine";

/** For what libvirt has no words. */
const qemuNamespace = "http://libvirt.org/schemas/domain/qemu/1.0";

export interface Parts {
  readonly top: Element[];
  readonly devices: Element[];
  /** After the devices. */
  readonly last: Element[];
}

export type Configurator = (domain: Domain, facts: DomainFacts, out: Parts) => void;

const name: Configurator = ({ id, identity, startedAtMs }, _facts, out) => {
  const mark = { "xmlns:skerry": metadataNamespace, id, "started-at-ms": startedAtMs };
  out.top.push(
    element("name", {}, id),
    element("uuid", {}, identity.uuid),
    element("metadata", {}, element("skerry:machine", mark)),
  );
};

const size: Configurator = ({ vcpus, maxVcpus, memoryBytes }, { platform }, out) => {
  const most = platform.hotplug ? maxVcpus : vcpus;
  out.top.push(
    element("memory", { unit: "b" }, String(memoryBytes)),
    element("vcpu", { current: vcpus }, String(most)),
  );
};

/**
 * Under emulation the guest gets a little more than it is told of. QEMU before 9.0 forgets, for memory that is a whole
 * number of 256 KiB long, to make translated code notice writes again after a round of a migration, so that pages are
 * left behind. libvirt knows whole mebibytes only: QEMU is told past it.
 */
const oddMemory: Configurator = ({ memoryBytes }, { acceleration }, out) => {
  if (acceleration !== "tcg") return;
  const size = String(memoryBytes + oddMemoryBytes);
  const told = ["-m", `${size}B`, "-object", `memory-backend-ram,id=odd.ram,size=${size}`];
  const command = [...told, "-machine", "memory-backend=odd.ram"];
  out.last.push(element("qemu:commandline", {}, ...command.map((value) => element("qemu:arg", { value }))));
};

const oddMemoryBytes = 8192n;

const boot: Configurator = ({ kernel, paths }, { platform }, out) => {
  const arch = platform.program.replace("qemu-system-", "");
  const children = [element("type", { arch, machine: platform.machine }, "hvm")];
  if (kernel) {
    children.push(
      element("kernel", {}, paths.kernel),
      element("initrd", {}, paths.initrd),
      element("cmdline", {}, kernel.commandLine),
    );
  } else {
    if (platform.firmware !== undefined) children.push(element("loader", {}, platform.firmware));
    children.push(element("boot", { dev: "hd" }));
  }
  out.top.push(element("os", {}, ...children));
};

const processor: Configurator = (_domain, { platform, acceleration }, out) => {
  const features = [element("acpi"), ...(platform.program.endsWith("x86_64") ? [element("apic")] : [])];
  if (acceleration === "tcg") {
    // The default cache of translated code is a quarter of what it emulates, up to a gigabyte for each machine.
    features.push(element("tcg", {}, element("tb-cache", { unit: "MiB" }, "64")));
  }
  out.top.push(
    element("features", {}, ...features),
    // A model with a name and not the very processor: another host can be asked whether it has it.
    element("cpu", { mode: acceleration === "kvm" ? "host-model" : "maximum" }),
    element("clock", { offset: "utc" }),
  );
};

/** Whether it is started again is the manager's affair; a guest that panics ends, with a reason. */
const endings: Configurator = (_domain, _facts, out) => {
  out.top.push(
    element("on_poweroff", {}, "destroy"),
    element("on_reboot", {}, "restart"),
    element("on_crash", {}, "destroy"),
  );
};

const disks: Configurator = ({ paths }, _facts, out) => {
  out.devices.push(
    element(
      "disk",
      { type: "file", device: "disk" },
      element("driver", { name: "qemu", type: "qcow2", discard: "unmap" }),
      element("source", { file: paths.rootDisk }),
      element("target", { dev: rootTarget, bus: "virtio" }),
      element("serial", {}, "root"),
    ),
    element(
      "disk",
      { type: "file", device: "disk" },
      element("driver", { name: "qemu", type: "raw" }),
      element("source", { file: paths.seed }),
      element("target", { dev: "vdb", bus: "virtio" }),
      element("serial", {}, "seed"),
      element("readonly"),
    ),
  );
};

/** QEMU's own router with its usual addresses, of which the guest gets the first that it leases. */
const network: Configurator = ({ identity }, _facts, out) => {
  out.devices.push(
    element(
      "interface",
      { type: "user" },
      element("mac", { address: identity.macAddress }),
      element("ip", { family: "ipv4", address: identity.network.guest, prefix: 24 }),
      element("model", { type: "virtio" }),
      element("rom", { enabled: "no" }),
    ),
  );
};

const serial: Configurator = ({ paths }, _facts, out) => {
  out.devices.push(
    element(
      "serial",
      { type: "unix" },
      element("source", { mode: "bind", path: paths.serialSocket }),
      element("log", { file: paths.consoleLog, append: "on" }),
      element("target", { port: 0 }),
    ),
  );
};

const extras: Configurator = (_domain, { platform }, out) => {
  // Only read from: the guest tells through it how much of its memory it uses.
  out.devices.push(
    element("memballoon", { model: "virtio" }, element("stats", { period: 10 })),
    element("rng", { model: "virtio" }, element("backend", { model: "builtin" })),
  );
  if (platform.program.endsWith("x86_64")) out.devices.push(element("panic", { model: "isa" }));
};

/** Files stay whose they are: libvirt would hand them to its own user and, at the end, to root. */
const security: Configurator = (_domain, { runAs }, out) => {
  if (runAs === undefined) return;
  const attributes = { type: "static", model: "dac", relabel: "no" };
  out.top.push(element("seclabel", attributes, element("label", {}, runAs)));
};

const configurators: readonly Configurator[] = [
  name,
  size,
  boot,
  processor,
  endings,
  disks,
  network,
  serial,
  extras,
  security,
  oddMemory,
];

/** The root disk's name among the domain's. */
export const rootTarget = "vda";

/** The whole description. Pure. */
export function deriveDomain(domain: Domain, facts: DomainFacts): Element {
  const out: Parts = { top: [], devices: [], last: [] };
  for (const configure of configurators) configure(domain, facts, out);
  return element(
    "domain",
    facts.acceleration === "kvm" ? { type: "kvm" } : { type: "qemu", "xmlns:qemu": qemuNamespace },
    ...out.top,
    element("devices", {}, ...out.devices),
    ...out.last,
  );
}
