/** What this machine needs to run Skerry: programs, room, a usable Node. */
import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { toFault } from "#kernel/fault.ts";
import { exec } from "../exec.ts";
import { formatSize } from "../units.ts";
import { fail, ok, warn, type Finding } from "./finding.ts";

const oldestNode = [20, 19] as const;
const oldestQemu = 6;
const programLimitMs = 5000;

/** Node's version. */
export function checkNode(version: string = process.versions.node): Finding {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  const enough = major > oldestNode[0] || (major === oldestNode[0] && minor >= oldestNode[1]);
  return enough
    ? ok("node", version)
    : fail("node", `${version} is too old`, `install Node ${oldestNode.join(".")} or newer`);
}

/** QEMU for this machine's own architecture. @param needed whether this machine is to run guests */
export async function checkQemu(needed: boolean, signal: AbortSignal): Promise<Finding> {
  const program = `qemu-system-${process.arch === "arm64" ? "aarch64" : "x86_64"}`;
  const remedy = `apt-get install ${process.arch === "arm64" ? "qemu-system-arm qemu-efi-aarch64" : "qemu-system-x86"}`;
  try {
    const text = await exec(program, ["--version"], { timeoutMs: programLimitMs, signal });
    const version = /version (\S+)/.exec(text)?.[1] ?? "unknown";
    return Number.parseInt(version) >= oldestQemu
      ? ok("qemu", `${program} ${version}`)
      : warn("qemu", `${program} ${version} is old`, `use QEMU ${oldestQemu} or newer`);
  } catch (thrown) {
    return (needed ? fail : warn)("qemu", toFault(thrown).message, remedy);
  }
}

/** Package of each helper program. */
const tools = {
  "qemu-img": "qemu-utils",
  xorriso: "xorriso",
  cpio: "cpio",
  gzip: "gzip",
} as const;

/** The small programs beside QEMU. */
export async function checkTools(needed: boolean, signal: AbortSignal): Promise<Finding> {
  const missing: string[] = [];
  for (const [program, owner] of Object.entries(tools)) {
    try {
      await exec(program, ["--version"], { timeoutMs: programLimitMs, signal });
    } catch (thrown) {
      if (toFault(thrown).reason === "PROGRAM_MISSING") missing.push(owner);
    }
  }
  const names = Object.keys(tools).join(", ");
  if (missing.length === 0) return ok("tools", names);
  return (needed ? fail : warn)(
    "tools",
    `missing: ${missing.join(", ")}`,
    `apt-get install ${missing.join(" ")}`,
  );
}

const bindingName: string = "@unraid/libvirt";

/** Where libvirt is: whether an agent with the driver `libvirt` would do well here. */
export async function findLibvirt(
  signal: AbortSignal,
  load: () => Promise<unknown> = () => import(bindingName),
): Promise<readonly Finding[]> {
  let version: string;
  try {
    version = (await exec("virsh", ["--version"], { timeoutMs: programLimitMs, signal })).trim();
  } catch {
    return []; // nobody needs it who does not have it
  }
  try {
    await load();
    return [ok("libvirt", `${version}, with its binding`)];
  } catch {
    const remedy = "apt-get install libvirt-dev g++ make python3 pkg-config, then run npm install again";
    return [
      warn("libvirt", `${version}, without its binding: its driver reads by virsh, which costs more`, remedy),
    ];
  }
}

const GiB = 1024 ** 3;

/** Room on the disk of a folder, or of the nearest one above it that exists. */
export async function checkDisk(folder: string): Promise<Finding> {
  try {
    const { bavail, bsize } = await statfs(folder);
    const free = bavail * bsize;
    const detail = `${formatSize(free)} free at ${folder}`;
    if (free < GiB) return fail("disk", detail, "machines cannot grow or be made: free some room");
    return free < 5 * GiB ? warn("disk", detail, "that is little for disks and images") : ok("disk", detail);
  } catch (thrown) {
    const above = dirname(folder);
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT" && above !== folder) return checkDisk(above);
    return warn("disk", `the room at ${folder} cannot be told`, "is it readable?");
  }
}
