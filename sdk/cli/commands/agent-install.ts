/** `skerry agent install` and `skerry agent uninstall`. */
import { access, rm, writeFile } from "node:fs/promises";
import { resolve } from "node:path";
import { Fault } from "#kernel/fault.ts";
import { checkout } from "../connection.ts";
import { exec } from "../exec.ts";
import type { Session } from "../session.ts";
import { renderUnit, unitName, unitPath } from "../systemd.ts";
import { agentArguments, settingsFile } from "./agent-join.ts";

const systemctlLimitMs = 60_000;

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
  await writeFile(unitPath, unit).catch(throwNotRoot);
  const limits = { timeoutMs: systemctlLimitMs, signal: session.signal };
  await exec("systemctl", ["daemon-reload"], limits);
  await exec("systemctl", ["enable", unitName], limits);
  // Not `--now`: after an upgrade the one that runs is the old one.
  await exec("systemctl", ["restart", unitName], limits);
  session.out.done("The agent runs, now and after every boot: systemctl status skerry-agent", {
    unit: unitPath,
  });
}

/** Stops the agent for good and takes the unit away. Machines run on, and what the agent keeps stays. */
export async function uninstallAgent(session: Session, options: { data: string }): Promise<void> {
  await access(unitPath).catch((cause: unknown) => {
    throw new Fault("notFound", `there is no ${unitPath}: nothing to take away`, {
      reason: "NOT_INSTALLED",
      cause,
    });
  });
  const limits = { timeoutMs: systemctlLimitMs, signal: session.signal };
  await exec("systemctl", ["disable", "--now", unitName], limits);
  await rm(unitPath).catch(throwNotRoot);
  await exec("systemctl", ["daemon-reload"], limits);
  session.out.done(
    `The agent is stopped and starts no more. Machines that it had run on; what it keeps is in ${resolve(options.data)}.`,
    { unit: unitPath },
  );
}

function throwNotRoot(error: NodeJS.ErrnoException): never {
  throw new Fault("denied", `cannot change ${unitPath}: ${error.code ?? error.message}; run this as root`, {
    reason: "NOT_ROOT",
    cause: error,
  });
}
