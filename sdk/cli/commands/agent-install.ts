/** `skerry agent install`. */
import { access, writeFile } from "node:fs/promises";
import { resolve } from "node:path";
import { Fault } from "#kernel/fault.ts";
import { checkout } from "../connection.ts";
import { exec } from "../exec.ts";
import type { Session } from "../session.ts";
import { renderUnit, unitPath } from "../systemd.ts";
import { agentArguments, settingsFile } from "./agent-join.ts";

/** Writes the unit and starts it; with `dryRun`, prints it. */
export async function installAgent(
  session: Session,
  options: { data: string; dryRun?: true },
): Promise<void> {
  const file = settingsFile(resolve(options.data));
  const unit = renderUnit({
    node: process.execPath,
    args: agentArguments(),
    settingsFile: file,
    workingDirectory: checkout,
  });
  if (options.dryRun) return session.out.raw(unit);
  await access(file).catch((cause: unknown) => {
    throw new Fault("notFound", `there is no ${file}: run skerry agent join first`, {
      reason: "NOT_JOINED",
      cause,
    });
  });
  await writeFile(unitPath, unit).catch((error: NodeJS.ErrnoException) => {
    throw new Fault("denied", `cannot write ${unitPath}: ${error.code ?? error.message}; run this as root`, {
      reason: "NOT_ROOT",
      cause: error,
    });
  });
  const limits = { timeoutMs: 30_000, signal: session.signal };
  await exec("systemctl", ["daemon-reload"], limits);
  await exec("systemctl", ["enable", "--now", "skerry-agent.service"], limits);
  session.out.done("The agent runs, now and after every boot: systemctl status skerry-agent", {
    unit: unitPath,
  });
}
