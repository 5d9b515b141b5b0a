/**
 * Whether KVM runs guests. That /dev/kvm opens proves nothing: nested or broken virtualisation lets it
 * open and then hangs every guest. So a guest is booted: sixty bytes of boot sector that print a word on
 * the serial port. Under emulation that takes a tenth of a second.
 */
import { spawn } from "node:child_process";
import { constants } from "node:fs";
import { access, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findEmulationReason } from "../agent-home.ts";
import { fail, ok, warn, type Finding } from "./finding.ts";

const word = "skerry-guest-runs";
const limitMs = 3000;

/**
 * Real-mode code at 0x7c00: clear ds, point si at the word behind the code, write it byte by byte to
 * COM1 (0x3f8), then halt for good.
 */
const bootCode = "31c0 8ed8 fc baf803 be167c ac 84c0 7403 ee ebf8 f4 ebfd".replaceAll(" ", "");

function bootSector(): Buffer {
  const sector = Buffer.alloc(512);
  sector.write(bootCode, "hex");
  sector.write(`${word}\0`, bootCode.length / 2, "latin1");
  sector.writeUInt16LE(0xaa55, 510);
  return sector;
}

/** Boots the tiny guest; true when it printed its word in time. */
export async function guestRuns(program: string, accelerator: string, signal: AbortSignal): Promise<boolean> {
  const folder = await mkdtemp(join(tmpdir(), "skerry-doctor-"));
  try {
    const disk = join(folder, "boot.img");
    await writeFile(disk, bootSector());
    return await boot(program, accelerator, disk, AbortSignal.any([signal, AbortSignal.timeout(limitMs)]));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function boot(program: string, accelerator: string, disk: string, signal: AbortSignal): Promise<boolean> {
  const args = ["-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc", "-m", "64"];
  args.push("-accel", accelerator, "-drive", `file=${disk},format=raw`, "-serial", "stdio");
  const guest = spawn(program, args, { stdio: ["ignore", "pipe", "ignore"] });
  return new Promise((resolve) => {
    let heard = "";
    let ran = false;
    const end = () => guest.kill("SIGKILL");
    if (signal.aborted) end();
    signal.addEventListener("abort", end, { once: true });
    guest.stdout.on("data", (bytes: Buffer) => {
      heard = (heard + bytes.toString("latin1")).slice(-1024);
      if (!heard.includes(word)) return;
      ran = true;
      end();
    });
    guest.once("error", () => resolve(false));
    guest.once("close", () => {
      signal.removeEventListener("abort", end);
      resolve(ran);
    });
  });
}

const slow = "guests run by emulation, about ten times slower";
const withoutNesting = "is this a virtual machine without nesting? then emulation is all there is";

/**
 * Is there KVM, does it open, does a guest run under it? What this machine's agents have found outranks a boot sector:
 * where that runs, a kernel may hang.
 * @param agentHomes their folders
 */
export async function checkKvm(agentHomes: readonly string[], signal: AbortSignal): Promise<Finding> {
  const name = "kvm";
  try {
    await access("/dev/kvm", constants.R_OK | constants.W_OK);
  } catch (thrown) {
    return (thrown as NodeJS.ErrnoException).code === "ENOENT"
      ? warn(
          name,
          `there is no /dev/kvm: ${slow}`,
          "turn on virtualisation in the firmware, or nesting in the hypervisor above",
        )
      : warn(name, `/dev/kvm cannot be opened: ${slow}`, "add the agent's user to the group kvm");
  }
  const found = await Promise.all(agentHomes.map(findEmulationReason));
  const reason = found.find((each) => each !== undefined);
  if (reason !== undefined) return warn(name, `${reason}: ${slow}`, withoutNesting);
  if (process.arch !== "x64") return ok(name, "/dev/kvm opens; the agent proves it by booting a guest");
  if (await guestRuns("qemu-system-x86_64", "kvm", signal)) return ok(name, "/dev/kvm opens and a guest ran");
  const emulated = await guestRuns("qemu-system-x86_64", "tcg,tb-size=64", signal);
  return emulated
    ? warn(
        name,
        `/dev/kvm opens, but a guest did not run within ${limitMs / 1000} s: ${slow}`,
        withoutNesting,
      )
    : fail(
        name,
        "no guest runs, with KVM or without",
        "reinstall qemu-system-x86 and its firmware (seabios)",
      );
}
