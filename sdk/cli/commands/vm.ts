/** `skerry vm`: the tree, and looking at machines. */
import { Command } from "commander";
import type { InstancePhase } from "../../kinds/generated.ts";
import type { Run, Session } from "../session.ts";
import { collectPair } from "../units.ts";
import { hostNames } from "./host-names.ts";
import { adoptCommand } from "./vm-adopt.ts";
import { consoleCommands } from "./vm-console.ts";
import { createCommand } from "./vm-create.ts";
import { lifecycleCommands } from "./vm-lifecycle.ts";
import { migrateCommand } from "./vm-migrate.ts";
import { explainCommand, metricsCommand } from "./vm-insight.ts";
import { instanceColumns, instanceFields } from "./vm-view.ts";

interface ListOptions {
  readonly phase?: string;
  readonly provider?: string;
  readonly region?: string;
  readonly host?: string;
  readonly label?: Readonly<Record<string, string>>;
}

/** All about virtual machines. */
export function vmCommand(run: Run): Command {
  const vm = new Command("vm").description("virtual machines");
  vm.addCommand(createCommand(run));
  vm.command("ls")
    .alias("list")
    .description("list machines")
    .option("--phase <phases>", "only those in these phases, comma-separated")
    .option("--provider <name>", "only those at this provider")
    .option("--region <name>", "only those in this region")
    .option("--host <host>", "only those on this host, by name or id")
    .option("--label <key=value>", "only those with this label; repeatable", collectPair)
    .action(run(list));
  vm.command("show").description("show a machine").argument("<vm>", "name or id").action(run(show));
  for (const command of lifecycleCommands(run)) vm.addCommand(command);
  vm.addCommand(migrateCommand(run));
  vm.addCommand(adoptCommand(run));
  for (const command of consoleCommands(run)) vm.addCommand(command);
  return vm.addCommand(metricsCommand(run)).addCommand(explainCommand(run, "placement"));
}

async function list(session: Session, options: ListOptions): Promise<void> {
  const cloud = await session.cloud();
  const { signal } = session;
  const host = options.host === undefined ? undefined : await cloud.hosts.find(options.host, { signal });
  const query = {
    phase: options.phase?.split(",") as InstancePhase[] | undefined,
    provider: options.provider,
    region: options.region,
    host: host?.id,
    labels: options.label,
  };
  const instances = await cloud.instances.list(query, { signal, pageSize: 500 }).all();
  session.out.list(instances, instanceColumns(await hostNames(session)));
}

async function show(session: Session, name: string): Promise<void> {
  const { instances } = await session.cloud();
  const instance = await instances.find(name, { signal: session.signal });
  session.out.show(instance, instanceFields(instance, await hostNames(session)));
}
