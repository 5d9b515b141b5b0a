/** `skerry vm migrate`. */
import { Command, InvalidArgumentError, Option } from "commander";
import { Fault } from "#kernel/fault.ts";
import type { MigrationWish } from "../../extras.ts";
import type { Instance } from "../../kinds/generated.ts";
import { followMigration, refuseUnmoved } from "../following.ts";
import type { Run, Session } from "../session.ts";
import { parseDuration, parseRate } from "../units.ts";
import { hostNames } from "./host-names.ts";
import { migrationFields, movedSentence, planFields } from "./migration-view.ts";

interface MigrateOptions {
  readonly to?: Place;
  readonly host?: string;
  readonly type?: "live" | "cold" | "postcopy";
  readonly maxDowntime?: number;
  readonly onUnreachable?: "abort" | "throttle" | "force" | "postcopy";
  readonly bandwidthLimit?: number;
  readonly wanOptimization?: "auto" | "on" | "off";
  readonly dryRun?: true;
  readonly detach?: true;
  readonly timeout?: number;
}

interface Place {
  readonly provider: string;
  readonly region?: string;
}

/** The command that moves a machine. */
export function migrateCommand(run: Run): Command {
  return new Command("migrate")
    .description("move a machine to another host while it runs, and show how that goes")
    .argument("<vm>", "name or id")
    .option(
      "--to <provider[/region]>",
      "where to, such as azure/eastus (default: the scheduler chooses)",
      parsePlace,
    )
    .option("--host <host>", "to this host, by name or id")
    .option(
      "--max-downtime <duration>",
      "how long it may stand still, such as 500ms (default: 1s)",
      parseDuration,
    )
    .addOption(
      new Option(
        "--on-unreachable <policy>",
        "when that cannot be kept: give up, slow the guest, break it, or let it run before its memory is there",
      ).choices(["abort", "throttle", "force", "postcopy"]),
    )
    .addOption(
      new Option("--type <type>", "postcopy only if losing the guest is acceptable").choices([
        "live",
        "cold",
        "postcopy",
      ]),
    )
    .option("--bandwidth-limit <rate>", "per second, such as 12m or 100mbit", parseRate)
    .addOption(
      new Option("--wan-optimization <when>", "spend CPU to send less").choices(["auto", "on", "off"]),
    )
    .option("--dry-run", "say what it would be, and do nothing")
    .option("--detach", "do not wait for the end")
    .option("--timeout <duration>", "how long to wait; the move goes on (default: 24h)", parseDuration)
    .action(run(migrate));
}

async function migrate(session: Session, name: string, options: MigrateOptions): Promise<void> {
  const { instances } = await session.cloud();
  const { signal } = session;
  const instance = await instances.find(name, { signal });
  const wish = toWish(options);
  if (options.dryRun) return plan(session, instance, wish);

  const begun = await instances.migrate(instance.id, wish, { signal });
  if (options.detach) {
    session.out.done(`${instance.name} is being moved by ${begun.id}.`, begun);
    return;
  }
  session.note(`${begun.id} moves ${instance.name}; \`skerry migration cancel ${begun.id}\` calls it off.`);
  const ended = await followMigration(session, begun, options.timeout);
  if (ended.phase === "complete") session.note(movedSentence(ended));
  session.out.show(ended, migrationFields(ended, await hostNames(session)));
  refuseUnmoved(ended);
}

async function plan(session: Session, { id, name }: Instance, wish: MigrationWish): Promise<void> {
  const { instances } = await session.cloud();
  const planned = await instances.planMigration(id, wish, { signal: session.signal });
  session.out.show(planned, planFields(name, planned, await hostNames(session)));
  if (planned.possible) return;
  const [first] = planned.blockers;
  throw new Fault("conflict", `${name} cannot move there now${first ? `: ${first.message}` : ""}`, {
    reason: "MOVE_BLOCKED",
  });
}

function toWish(options: MigrateOptions): MigrationWish {
  const { to, host, type, maxDowntime, onUnreachable, bandwidthLimit, wanOptimization } = options;
  return {
    ...(to && { provider: to.provider, ...(to.region !== undefined && { region: to.region }) }),
    ...(host !== undefined && { host }),
    ...(type && { type }),
    ...(maxDowntime !== undefined && { max_downtime_ms: Math.round(maxDowntime) }),
    ...(onUnreachable && { on_unreachable: onUnreachable }),
    ...(bandwidthLimit !== undefined && { bandwidth_limit: bandwidthLimit }),
    ...(wanOptimization && { wan_optimization: wanOptimization }),
  };
}

function parsePlace(text: string): Place {
  const [provider = "", region, ...more] = text.split("/");
  if (provider === "" || region === "" || more.length > 0) {
    throw new InvalidArgumentError("It must be provider or provider/region, such as azure/eastus.");
  }
  return { provider, ...(region !== undefined && { region }) };
}
