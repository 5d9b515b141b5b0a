// The programs of the system that Skerry runs, and the packages that bring them.
import { accessSync, constants, existsSync, readdirSync } from "node:fs";
import path from "node:path";
import { run, say, SetupError, succeeds } from "./steps.mjs";

const emulator = {
  x64: ["qemu-system-x86_64", "qemu-system-x86"],
  arm64: ["qemu-system-aarch64", "qemu-system-arm"],
};

/** Files without which a machine does not boot from a disk; elsewhere QEMU brings them. */
const firmware = {
  x64: [],
  arm64: [["/usr/share/qemu-efi-aarch64/QEMU_EFI.fd", "qemu-efi-aarch64", "boots machines from disks"]],
};

/** Program, its package on Debian and Ubuntu, and what it is for. */
export function neededPrograms(architecture = process.arch) {
  const system = emulator[architecture];
  if (!system) throw new SetupError(`Skerry runs on x86-64 and 64-bit ARM; this is ${architecture}`);
  return [
    [...system, "runs the machines"],
    ...firmware[architecture],
    ["qemu-img", "qemu-utils", "makes their disks"],
    ["xorriso", "xorriso", "writes what a machine reads at its first boot"],
    ["cpio", "cpio", "packs the built-in image"],
    ["gzip", "gzip", "packs the built-in image"],
    ["dpkg-deb", "dpkg", "unpacks the built-in image's kernel"],
    ["setpriv", "util-linux", "ties the cloud's processes to this one"],
  ];
}

/** What the libvirt driver needs besides; its binding is compiled when npm's packages are installed. */
export function libvirtPrograms(architecture = process.arch) {
  const machine = { x64: "x86_64", arm64: "aarch64" }[architecture];
  const plugin = `/usr/lib/${machine}-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so`;
  const compile = "compiles what the libvirt driver talks to libvirt with";
  return [
    ["libvirtd", "libvirt-daemon", "runs machines for the libvirt driver"],
    [plugin, "libvirt-daemon-driver-qemu", "lets libvirt run QEMU"],
    ["virsh", "libvirt-clients", "lets the libvirt driver change its machines"],
    ["/usr/include/libvirt/libvirt.h", "libvirt-dev", compile],
    ["g++", "g++", compile],
    ["make", "make", compile],
    ["python3", "python3", compile],
    ["pkg-config", "pkg-config", compile],
  ];
}

/** What containers need besides; a cloud without them runs machines only. */
export function containerPrograms() {
  return [
    ["podman", "podman", "runs the containers of edge workloads"],
    ["crun", "crun", "starts what is in them"],
    ["slirp4netns", "slirp4netns", "gives each a network of its own without touching the host's"],
  ];
}

/** As {@link ensureSystemPrograms}, of what one can do without: says so instead of throwing. */
export async function offerSystemPrograms(programs, without, env = process.env) {
  try {
    await ensureSystemPrograms(programs, env);
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    say(`${without}: ${error.message}`);
  }
}

/** Installs what is missing of these, or throws a SetupError with the one command that does. */
export async function ensureSystemPrograms(programs = neededPrograms(), env = process.env) {
  const missing = programs.filter(([program]) => !isPresent(program, env.PATH ?? ""));
  const packages = [...new Set(missing.map(([, name]) => name))];
  if (missing.length === 0) return ensurePackageLists();
  for (const [program, name, purpose] of missing)
    say(`Missing: ${program} (package ${name}), which ${purpose}`);
  if (!isOnPath("apt-get", env.PATH ?? "")) {
    throw new SetupError(
      `install these with your system's package manager; Debian calls the packages ${packages.join(" ")}`,
    );
  }
  const command = installCommand(packages);
  const rights = findRights();
  if (!rights) throw new SetupError(`run this once, then start again:\n\n  sudo sh -c '${command}'\n`);
  say(`Installing ${packages.join(", ")} with apt-get ...`);
  await apt([...rights, "sh", "-c", command]);
}

/** The built-in image's kernel comes from the distribution, whose lists a fresh container lacks. */
async function ensurePackageLists() {
  const lists = "/var/lib/apt/lists";
  if (!existsSync(lists) || readdirSync(lists).some((name) => name.includes("_Packages"))) return;
  const rights = findRights();
  if (!rights) return; // a built image needs no lists; a build that does will name them
  say("Fetching the package lists, which the built-in image's kernel is found by ...");
  await apt([...rights, "apt-get", "update"]);
}

function installCommand(packages) {
  const options = "-y --no-install-recommends -o DPkg::Lock::Timeout=300";
  return `apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install ${options} ${packages.join(" ")}`;
}

/** What to put before a command that needs root: nothing, sudo without a password, or undefined. */
function findRights() {
  if (process.getuid?.() === 0) return [];
  return succeeds(["sudo", "-n", "true"]) ? ["sudo", "-n"] : undefined;
}

/** apt-get does not wait for the lock on its lists, so a machine that updates itself just now is met again. */
async function apt(argv) {
  const waits = [5, 15, 30, 60];
  for (let attempt = 0; ; attempt++) {
    try {
      return await run(argv, { failure: "the packages could not be installed" });
    } catch (error) {
      if (attempt >= waits.length) throw error;
      say(
        `  apt-get did not succeed; trying again in ${waits[attempt]} s (${attempt + 1} of ${waits.length})`,
      );
      await new Promise((resolve) => setTimeout(resolve, waits[attempt] * 1000));
    }
  }
}

/** A program by its name, or a file by its path. */
function isPresent(name, searchPath) {
  return path.isAbsolute(name) ? existsSync(name) : isOnPath(name, searchPath);
}

/** System folders count although a user's PATH often lacks them. */
function isOnPath(program, searchPath) {
  const folders = [...searchPath.split(path.delimiter), "/usr/sbin", "/sbin"].filter(Boolean);
  return folders.some((folder) => {
    try {
      accessSync(path.join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
