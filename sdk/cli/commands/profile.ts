/** `skerry profile`: the logins that are remembered, and which of them is in use. */
import { Command } from "commander";
import { Fault } from "#kernel/fault.ts";
import { configPath, loadConfig, updateConfig } from "../config.ts";
import type { Column } from "../output.ts";
import type { Run, Session } from "../session.ts";

interface Row {
  readonly name: string;
  readonly current: boolean;
  readonly url: string;
  readonly username: string;
  readonly project: string;
}

/** All about profiles. */
export function profileCommand(run: Run): Command {
  const profile = new Command("profile").description("logins that are remembered");
  profile.command("ls").alias("list").description("list profiles").action(run(list));
  profile.command("use").description("use a profile from now on").argument("<profile>").action(run(use));
  return profile;
}

async function list(session: Session): Promise<void> {
  const { current, profiles } = await loadConfig(configPath(session.terminal.env));
  // Never the secrets themselves, in no format.
  const rows = Object.entries(profiles).map(([name, { url, username = "", project = "" }]) => ({
    ...{ name, url, username, project },
    current: name === current,
  }));
  session.out.list(rows, columns);
}

async function use(session: Session, name: string): Promise<void> {
  await updateConfig(configPath(session.terminal.env), (config) => {
    if (Object.hasOwn(config.profiles, name)) return { ...config, current: name };
    const known = Object.keys(config.profiles).join(", ") || "none";
    throw new Fault("notFound", `there is no profile ${name}; known: ${known}`, {
      reason: "NO_SUCH_PROFILE",
    });
  });
  session.out.done(`Uses profile ${name}.`, { profile: name });
}

const columns: readonly Column<Row>[] = [
  { title: "NAME", value: (r) => r.name },
  { title: "IN USE", value: (r) => (r.current ? "yes" : "") },
  { title: "CLOUD", value: (r) => r.url },
  { title: "USER", value: (r) => r.username },
  { title: "PROJECT", value: (r) => r.project },
];
