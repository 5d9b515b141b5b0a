/** `skerry agent status`. */
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { findAgentCertificate, findAgentProcess } from "../agent-home.ts";
import type { Session } from "../session.ts";
import { parseEnvironment } from "../systemd.ts";
import { formatDuration } from "../units.ts";
import { settingsFile } from "./agent-join.ts";

/** Shows identity, certificate, process and settings. */
export async function showAgent(session: Session, options: { data: string }): Promise<void> {
  const home = resolve(options.data);
  const text = await readFile(settingsFile(home), "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return ""; // a local cloud gives its agents their settings itself
    throw error;
  });
  const settings = parseEnvironment(text);
  const certificate = await findAgentCertificate(home);
  const pid = await findAgentProcess(home);
  const status = {
    data: home,
    joined: certificate !== undefined,
    host_id: certificate?.hostId ?? null,
    certificate_valid_to: certificate?.validTo.toISOString() ?? null,
    pid: pid ?? null,
    settings,
  };
  const left = certificate ? certificate.validTo.getTime() - Date.now() : 0;
  session.out.show(status, [
    ["data", home],
    ["host", status.host_id ?? "has not joined a cloud"],
    ["process", pid === undefined ? "not running" : `running, pid ${pid}`],
    ["certificate", certificate ? (left > 0 ? `valid for ${formatDuration(left)}` : "expired") : ""],
    ["name", settings["SKERRY_AGENT_NAME"] ?? ""],
    ["gateway", settings["SKERRY_AGENT_GATEWAY"] ?? ""],
    ["driver", settings["SKERRY_AGENT_DRIVER"] ?? ""],
  ]);
}
