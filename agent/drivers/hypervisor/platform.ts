/** What differs between the architectures that hosts have. */
import { Fault } from "#kernel/fault.ts";

export interface Platform {
  readonly program: string;
  /** Name of the newest version of the machine type. */
  readonly machine: string;
  /** What comes after its name in the argument. */
  readonly machineOptions: string;
  /** Where the guest sees the first byte of its memory. */
  readonly memoryStart: number;
  /** Whether vCPUs and memory can be plugged in. */
  readonly hotplug: boolean;
  /** Empty ports for disks and network cards to come. */
  readonly hotplugPorts: number;
  /** Boots disks, and brings the ACPI that guests are asked to stop by; undefined: the machine brings its own. */
  readonly firmware: string | undefined;
  readonly panicDevice: string | undefined;
}

const platforms: Readonly<Record<string, Platform>> = {
  x64: {
    program: "qemu-system-x86_64",
    machine: "q35",
    machineOptions: "",
    memoryStart: 0,
    hotplug: true,
    hotplugPorts: 4,
    firmware: undefined,
    panicDevice: "pvpanic-pci",
  },
  arm64: {
    program: "qemu-system-aarch64",
    machine: "virt",
    machineOptions: ",gic-version=max",
    memoryStart: 0x4000_0000,
    hotplug: false,
    hotplugPorts: 4,
    firmware: "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
    panicDevice: "pvpanic-pci",
  },
};

/** @param architecture as Node names it: x64, arm64 */
export function platformOf(architecture: string): Platform {
  const platform = platforms[architecture];
  if (!platform) {
    throw new Fault("invalid", `machines cannot run on ${architecture}`, {
      reason: "ARCHITECTURE_UNSUPPORTED",
    });
  }
  return platform;
}
