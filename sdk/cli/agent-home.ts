/** What an agent keeps on its host, as far as the command line needs to know it. */
import { X509Certificate } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { peerOf } from "#kernel/peer.ts";

/** Where an agent keeps its state unless told otherwise. */
export const defaultAgentHome = "/var/lib/skerry-agent";

export interface AgentCertificate {
  readonly hostId: string;
  readonly validFrom: Date;
  readonly validTo: Date;
}

/** The agent's own certificate: the one in its folder that speaks for a host. */
export async function findAgentCertificate(home: string): Promise<AgentCertificate | undefined> {
  for (const file of await list(home)) {
    if (!file.endsWith(".pem")) continue;
    const text = await readFile(join(home, file), "utf8");
    for (const pem of text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []) {
      const certificate = new X509Certificate(pem);
      const peer = peerOf(certificate);
      if (peer?.role !== "host") continue;
      const { validFrom, validTo } = certificate;
      return { hostId: peer.name, validFrom: new Date(validFrom), validTo: new Date(validTo) };
    }
  }
  return undefined;
}

/** The process that works with this folder, by what its environment says; Linux only. */
export async function findAgentProcess(home: string): Promise<number | undefined> {
  for (const entry of await list("/proc")) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    const environment = await readFile(`/proc/${entry}/environ`, "latin1").catch(() => ""); // another user's, or gone
    const command = await readFile(`/proc/${entry}/cmdline`, "latin1").catch(() => "");
    const ours = environment.split("\0").includes(`SKERRY_AGENT_DATA=${home}`);
    if (ours && /agent\/main\.[jt]s/.test(command)) return pid;
  }
  return undefined;
}

/** The homes of agents on this machine: the installed one, and those of local clouds. */
export async function findAgentHomes(cloudHomes: readonly string[]): Promise<readonly string[]> {
  const homes: string[] = [];
  if ((await list(defaultAgentHome)).length > 0) homes.push(defaultAgentHome);
  for (const home of cloudHomes) {
    const agents = join(home, "agents");
    // Beside each there is the token with which it joined.
    const entries = await readdir(agents, { withFileTypes: true }).catch(nothingThere);
    homes.push(...entries.flatMap((entry) => (entry.isDirectory() ? join(agents, entry.name) : [])));
  }
  return homes;
}

/** Why the agent does without hardware acceleration, as it found by booting a guest; undefined: it has it, or never tried. */
export async function findEmulationReason(home: string): Promise<string | undefined> {
  try {
    const text = await readFile(join(home, "driver", "acceleration.json"), "utf8");
    const { acceleration, reason } = JSON.parse(text) as { acceleration?: string; reason?: string };
    return acceleration === "tcg" ? reason : undefined;
  } catch {
    return undefined; // not there, not ours to read, or torn by a crash: nothing is known then
  }
}

async function list(folder: string): Promise<readonly string[]> {
  return readdir(folder).catch(nothingThere);
}

function nothingThere(error: NodeJS.ErrnoException): never[] {
  if (["ENOENT", "ENOTDIR", "EACCES"].includes(error.code ?? "")) return [];
  throw error;
}
