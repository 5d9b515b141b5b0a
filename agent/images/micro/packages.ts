/**
 * Takes what the guest is made of from the distribution's packages: downloaded and unpacked, never
 * installed, so it needs no root and leaves the host as it was.
 */
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import type { Run } from "./tools.ts";

export type GuestArchitecture = "x86_64" | "aarch64";
const debianArchitecture = { x86_64: "amd64", aarch64: "arm64" } as const;

/** Packages that stand for "the newest kernel for virtual machines", best first. */
const kernelPackages = (architecture: GuestArchitecture) => [
  `linux-image-cloud-${debianArchitecture[architecture]}`,
  "linux-image-virtual",
  "linux-image-kvm",
  "linux-image-generic",
  `linux-image-${debianArchitecture[architecture]}`,
];

/** Each line: the names that one package has had in different releases, newest first. */
const userlandPackages = [
  ["busybox-static"],
  ["e2fsprogs"],
  ["libext2fs2t64", "libext2fs2"],
  ["libcom-err2"],
  ["libblkid1"],
  ["libuuid1"],
  ["libc6"],
] as const;

export interface PackageSource {
  readonly run: Run;
  /** Where downloads stay, so that a second build fetches nothing. */
  readonly downloads: string;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/** Downloads what the guest is made of; gives the paths of the packages. */
export async function downloadPackages(
  source: PackageSource,
  architecture: GuestArchitecture,
): Promise<string[]> {
  await mkdir(source.downloads, { recursive: true });
  try {
    return await downloadWith([], source, architecture);
  } catch (thrown) {
    source.signal.throwIfAborted();
    source.log.info("micro.packages.refresh", { why: toFault(thrown).message });
    return await downloadWith(await refreshLists(source), source, architecture);
  }
}

/** A fresh machine has no package lists, or old ones: get our own, beside the downloads. */
async function refreshLists({ run, downloads, signal }: PackageSource): Promise<string[]> {
  const options = [`Dir::State::Lists=${join(downloads, "lists")}`, `Dir::Cache=${join(downloads, "cache")}`];
  const arguments_ = options.flatMap((option) => ["-o", option]);
  await mkdir(join(downloads, "lists", "partial"), { recursive: true });
  await mkdir(join(downloads, "cache", "archives", "partial"), { recursive: true });
  await run(["apt-get", ...arguments_, "-qq", "update"], { signal });
  return arguments_;
}

async function downloadWith(
  aptOptions: readonly string[],
  source: PackageSource,
  architecture: GuestArchitecture,
): Promise<string[]> {
  const { run, downloads, signal, log } = source;
  const show = async (name: string) => {
    const shown = run(["apt-cache", ...aptOptions, "show", "--no-all-versions", name], { signal });
    return await shown.catch((thrown: unknown) => {
      if (signal.aborted) throw thrown;
      return ""; // apt-cache fails for a package it does not know
    });
  };
  const names = await kernelNames(kernelPackages(architecture), show);
  for (const alternatives of userlandPackages) names.push(await firstKnown(alternatives, show));
  log.info("micro.packages.download", { packages: names });
  await run(["apt-get", ...aptOptions, "-qq", "download", ...names], { signal, cwd: downloads });
  return await newestOf(names, downloads);
}

type Show = (name: string) => Promise<string>;

async function kernelNames(candidates: readonly string[], show: Show): Promise<string[]> {
  for (const candidate of candidates) {
    const image = /\blinux-image-(?:unsigned-)?(\d[\w.+-]*)/.exec(dependsOf(await show(candidate)));
    if (!image?.[1]) continue;
    const modules = `linux-modules-${image[1]}`; // Ubuntu keeps them apart
    return (await show(modules)) === "" ? [image[0]] : [image[0], modules];
  }
  throw packageMissing(candidates);
}

const dependsOf = (description: string) => /^Depends: (.*)$/m.exec(description)?.[1] ?? "";

async function firstKnown(alternatives: readonly string[], show: Show): Promise<string> {
  for (const name of alternatives) {
    if ((await show(name)).startsWith("Package:")) return name;
  }
  throw packageMissing(alternatives);
}

function packageMissing(names: readonly string[]): Fault {
  return new Fault("unavailable", `no package source of this host offers ${names.join(" or ")}`, {
    reason: "PACKAGE_NOT_FOUND",
    detail: { packages: [...names] },
  });
}

/** Downloads of older versions may lie beside: the one downloaded last by name and version wins. */
async function newestOf(names: readonly string[], downloads: string): Promise<string[]> {
  const files = (await readdir(downloads)).filter((file) => file.endsWith(".deb"));
  return names.map((name) => {
    const versions = files.filter((file) => file.startsWith(`${name}_`)).sort(byVersion);
    const newest = versions.at(-1);
    if (!newest) throw packageMissing([name]);
    return join(downloads, newest);
  });
}

const { compare: byVersion } = new Intl.Collator("en", { numeric: true });
