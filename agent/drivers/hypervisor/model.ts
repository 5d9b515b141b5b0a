/** What guests see of the machine they run on. It must not change under a guest that moves while it runs. */
import { createHash } from "node:crypto";
import type { GuestModel } from "../driver.ts";

/** Versions of a machine type, newest first, from QEMU's list of machine types. Pure. */
export function parseMachineTypes(help: string, alias: string): string[] {
  const newest = new RegExp(`^${alias}\\s.*\\(alias of (\\S+)\\)`, "m").exec(help)?.[1];
  if (newest === undefined) return [];
  const family = newest.replace(/[\d.]+$/, "");
  const names = help.split("\n").map((line) => line.split(" ", 1)[0] ?? "");
  const versions = names.filter(
    (name) => name.startsWith(family) && /^[\d.]+$/.test(name.slice(family.length)),
  );
  return versions.sort((one, other) => other.localeCompare(one, "en", { numeric: true }));
}

/**
 * The CPU that guests get, and what makes it the same as another host's: QEMU's version where QEMU makes it up, the
 * processor's features where the guest gets those. Pure.
 */
export function deriveCpuModel(
  acceleration: "kvm" | "tcg",
  host: { readonly version: string; readonly cpuInfo: string },
): string {
  if (acceleration === "tcg") return `max-${host.version.split(".", 2).join(".")}`;
  const first = host.cpuInfo.split("\n\n", 1)[0] ?? "";
  const telling = first
    .split("\n")
    .filter((line) => /^(vendor_id|cpu family|model|flags|CPU |Features)/.test(line));
  return `host-${createHash("sha256").update(telling.join("\n")).digest("hex").slice(0, 12)}`;
}

/** The name that QEMU knows a CPU model by. */
export function cpuOf(cpuModel: string): string {
  return cpuModel.split("-", 1)[0] ?? cpuModel;
}

/** The machine type to start with: the one it had, where the host still has it. Pure. */
export function chooseMachineType(before: string | undefined, host: GuestModel, fallback: string): string {
  if (before !== undefined && host.machineTypes.includes(before)) return before;
  return host.machineTypes[0] ?? fallback;
}
