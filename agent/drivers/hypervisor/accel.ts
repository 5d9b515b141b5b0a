/**
 * Whether guests run with hardware acceleration here: proved by booting one, for `/dev/kvm` opens on hosts where guests
 * then hang. The verdict holds for one host kernel and one QEMU and is remembered in a file.
 */
import { constants } from "node:fs";
import { access, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { release } from "node:os";
import { dirname } from "node:path";
import { exec } from "#agent/exec.ts";
import { isFault, toFault } from "#kernel/fault.ts";
import type { LocalImage } from "../driver.ts";
import { hostFault } from "./host-fault.ts";
import type { Platform } from "./platform.ts";

export interface Acceleration {
  readonly acceleration: "kvm" | "tcg";
  readonly reason: string;
}

export type KernelImage = LocalImage & { readonly type: "kernel" };

export interface AccelerationProbe {
  readonly platform: Platform;
  readonly qemuVersion: string;
  readonly verdictFile: string;
  /** The guest to boot; without one, nothing is proved and nothing accelerated. */
  guest(signal: AbortSignal): Promise<KernelImage | undefined>;
  readonly devicePath?: string;
}

/** A kernel that got this far executes its own code, not only the firmware's. */
const kernelBanner = "Linux version";
const bootLimitMs = 10_000;

/** Finds the verdict, by trial the first time. Takes up to ten seconds then. */
export async function proveAcceleration(
  probe: AccelerationProbe,
  signal: AbortSignal,
): Promise<Acceleration> {
  const device = probe.devicePath ?? "/dev/kvm";
  try {
    await access(device, constants.R_OK | constants.W_OK);
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    return tcg(missing ? "the host has no /dev/kvm" : "the agent may not open /dev/kvm");
  }
  const key = `${release()} ${probe.qemuVersion}`;
  const known = await readVerdict(probe.verdictFile, key);
  if (known) return known;
  const guest = await probe.guest(signal);
  if (!guest) return tcg("there is no guest to prove acceleration with");
  const verdict = await boot(probe.platform, guest, signal);
  await writeVerdict(probe.verdictFile, key, verdict);
  return verdict;
}

async function boot(
  { program, machine, machineOptions }: Platform,
  guest: KernelImage,
  signal: AbortSignal,
): Promise<Acceleration> {
  const bare = ["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"];
  const hardware = ["-machine", `${machine}${machineOptions}`, "-accel", "kvm", "-cpu", "host", "-m", "256"];
  // Every message from the first on: a quiet kernel proves nothing.
  const append = `${guest.commandLine} earlyprintk=serial ignore_loglevel`;
  const kernel = ["-kernel", guest.kernelPath, "-initrd", guest.initrdPath, "-append", append];
  try {
    await exec(program, [...bare, ...hardware, ...kernel], {
      signal,
      timeoutMs: bootLimitMs,
      until: (stdout) => stdout.includes(kernelBanner),
    });
    return { acceleration: "kvm", reason: "a guest booted with KVM" };
  } catch (thrown) {
    if (signal.aborted) throw thrown;
    const fault = toFault(thrown);
    if (fault.reason === "PROGRAM_MISSING") throw fault;
    return tcg(
      fault.reason === "TIMEOUT"
        ? "/dev/kvm opens, but a guest did not boot with it"
        : "/dev/kvm opens, but QEMU cannot use it",
    );
  }
}

function tcg(reason: string): Acceleration {
  return { acceleration: "tcg", reason };
}

async function readVerdict(path: string, key: string): Promise<Acceleration | undefined> {
  try {
    const verdict = JSON.parse(await readFile(path, "utf8")) as Acceleration & { readonly key: string };
    return verdict.key === key ? { acceleration: verdict.acceleration, reason: verdict.reason } : undefined;
  } catch (error) {
    // Not there yet, or torn by a crash of the host: then it is tried again.
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw isFault(error) ? error : hostFault(error, "the acceleration verdict cannot be read");
  }
}

async function writeVerdict(path: string, key: string, verdict: Acceleration): Promise<void> {
  try {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(`${path}.new`, JSON.stringify({ key, ...verdict }));
    await rename(`${path}.new`, path);
  } catch (error) {
    throw hostFault(error, "the acceleration verdict cannot be written");
  }
}
