/** `skerry migration`: moves under way, and what those that ended cost. */
import { Command } from "commander";
import { Fault } from "#kernel/fault.ts";
import type { Migration, MigrationPhase } from "../../kinds/generated.ts";
import { followMigration } from "../following.ts";
import type { Run, Session } from "../session.ts";
import { hostNames } from "./host-names.ts";
import { migrationColumns, migrationFields } from "./migration-view.ts";

const migrationId = /^mig-/;

/** All about migrations. */
export function migrationCommand(run: Run): Command {
  const migration = new Command("migration").description("moves of machines between hosts");
  migration
    .command("ls")
    .alias("list")
    .description("list migrations, oldest first")
    .option("--vm <vm>", "only those of this machine, by name or id")
    .option("--phase <phases>", "only those in these phases, comma-separated")
    .action(run(list));
  migration
    .command("show")
    .description("show a migration: how far it is, and in the end what it cost")
    .argument("<migration|vm>", "id, or a machine of which the newest is shown")
    .option("-f, --follow", "go on showing until it has ended")
    .action(run(show));
  migration
    .command("cancel")
    .description("call a migration off; the machine stays where it is")
    .argument("<migration|vm>", "id, or the machine that moves")
    .option("--wait", "wait until it has ended")
    .action(run(cancel));
  return migration;
}

async function list(session: Session, options: { vm?: string; phase?: string }): Promise<void> {
  const { instances, migrations } = await session.cloud();
  const { signal } = session;
  const vm = options.vm === undefined ? undefined : await instances.find(options.vm, { signal });
  const phase = options.phase?.split(",") as MigrationPhase[] | undefined;
  const found = await migrations.list({ instance: vm?.id, phase }, { signal, pageSize: 500 }).all();
  session.out.list(found, migrationColumns);
}

async function show(session: Session, given: string, { follow }: { follow?: true }): Promise<void> {
  const found = await findMigration(session, given);
  const shown = follow ? await followMigration(session, found) : found;
  session.out.show(shown, migrationFields(shown, await hostNames(session)));
}

async function cancel(session: Session, given: string, { wait }: { wait?: true }): Promise<void> {
  const { migrations } = await session.cloud();
  const { id } = await findMigration(session, given);
  const asked = await migrations.cancel(id, { signal: session.signal });
  const now = wait ? await followMigration(session, asked) : asked;
  const sentence = now.phase === "cancelled" ? "has been called off" : `is being called off (${now.phase})`;
  if (wait && now.phase === "complete") {
    throw new Fault("conflict", `${now.name} had moved already`, { reason: "ALREADY_COMMITTED" });
  }
  session.out.done(`${id} of ${now.name} ${sentence}.`, now);
}

/** A migration by its id, or a machine's newest. */
async function findMigration(session: Session, given: string): Promise<Migration> {
  const { instances, migrations } = await session.cloud();
  const { signal } = session;
  if (migrationId.test(given)) return migrations.get(given, { signal });
  const vm = await instances.find(given, { signal });
  const newest = (await migrations.list({ instance: vm.id }, { signal, pageSize: 500 }).all()).at(-1);
  if (newest) return newest;
  throw new Fault("notFound", `${vm.name} has never been moved`, { reason: "NEVER_MOVED" });
}
