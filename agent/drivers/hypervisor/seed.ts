/** The NoCloud seed: a small ISO labelled CIDATA from which the guest reads who it is at its first boot. */
import { mkdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { exec } from "#agent/exec.ts";
import { Fault } from "#kernel/fault.ts";
import type { MachineSpec } from "#gen/skerry/agent/v1/machine_pb.js";
import type { MachineFiles } from "./files.ts";
import { hostFault } from "./host-fault.ts";

export interface Seed {
  readonly "meta-data": string;
  readonly "user-data": string;
  readonly "network-config": string;
}

/** The same at every host: a guest that moves may have the ISO mounted, and finds another one behind it. */
const dates = ["--modification-date=2000010100000000", "--set_all_file_dates", "2000010100000000"];

const hostnamePattern = /^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$/;

/** The seed's files. Pure. JSON is YAML too, and quotes whatever a user put in. */
export function deriveSeed(
  machine: { readonly id: string; readonly macAddress: string },
  spec: Pick<MachineSpec, "hostname" | "sshKeys" | "userData">,
): Seed {
  const hostname = spec.hostname === "" ? machine.id : spec.hostname;
  if (!hostnamePattern.test(hostname)) throw invalid("hostname", "must be a host name label");
  for (const key of spec.sshKeys) {
    if (/\p{Cc}/u.test(key)) throw invalid("ssh_keys", "must be one line each");
  }
  const metaData = [
    `instance-id: ${JSON.stringify(machine.id)}`,
    `local-hostname: ${hostname}`,
    "public-keys:",
    ...spec.sshKeys.map((key) => `  - ${JSON.stringify(key)}`),
  ];
  if (spec.sshKeys.length === 0) metaData.pop();
  const network = {
    version: 2,
    ethernets: { primary: { match: { macaddress: machine.macAddress }, dhcp4: true } },
  };
  return {
    "meta-data": `${metaData.join("\n")}\n`,
    "user-data": spec.userData === "" ? "#cloud-config\n{}\n" : spec.userData,
    "network-config": `${JSON.stringify(network)}\n`,
  };
}

/** Makes the ISO unless it is there: what it says is fixed at creation. */
export async function ensureSeed(
  files: MachineFiles,
  machine: { readonly id: string; readonly macAddress: string },
  spec: MachineSpec,
  signal: AbortSignal,
): Promise<void> {
  const seed = deriveSeed(machine, spec);
  const folder = join(files.directory, "seed");
  const unfinished = `${files.seed}.new`;
  try {
    if ((await stat(files.seed).catch(absent)) !== undefined) return;
    await mkdir(folder, { recursive: true });
    for (const [name, content] of Object.entries(seed))
      await writeFile(join(folder, name), content as string);
    const label = ["-volid", "CIDATA", "-joliet", "-rational-rock", ...dates];
    await exec("xorriso", ["-as", "genisoimage", "-quiet", ...label, "-output", unfinished, folder], {
      signal,
      timeoutMs: 30_000,
    });
    await rename(unfinished, files.seed);
    await rm(folder, { recursive: true, force: true });
  } catch (error) {
    throw hostFault(error, "the machine's seed cannot be made");
  }
}

function absent(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw error;
}

function invalid(field: string, message: string): Fault {
  return new Fault("invalid", `${field}: ${message}`, { reason: "SEED_INVALID", detail: { field } });
}
