/** `skerry host lost`: an operator's word that a host is dead. */
import { Command } from "commander";
import { Fault } from "#kernel/fault.ts";
import type { Run, Session } from "../session.ts";

export function lostCommand(run: Run): Command {
  return new Command("lost")
    .description(
      "say that a silent host is dead for certain, so that its machines may start elsewhere at once",
    )
    .argument("<host>", "name or id")
    .option("--i-am-sure", "do it; without this the command only tells what it would do")
    .action(run(declareLost));
}

async function declareLost(session: Session, name: string, { iAmSure = false }: { iAmSure?: boolean }) {
  const { signal } = session;
  const { hosts } = await session.cloud();
  const host = await hosts.find(name, { signal });
  if (!iAmSure) {
    const machines = await hosts.remaining(host.id, { signal });
    session.note(
      `${host.name} is ${host.phase}${host.status?.silence ? `: ${host.status.silence.message}` : ""}.\n` +
        `Of its ${String(machines.length)} machines those of restart_elsewhere are made anew on other hosts, from their images; ` +
        "their disks there are given up.\n" +
        "If it is not dead they run twice, with the same names and addresses, until the cloud hears of it again: make sure " +
        "that its power is off. When it is back, its copies are stopped and removed.",
    );
    throw new Fault("invalid", "nothing was done: say --i-am-sure if you are", { reason: "NOT_CONFIRMED" });
  }
  const declared = await hosts.declareLost(host.id, { signal });
  session.out.done(`${host.name} is lost: what may run elsewhere does.`, declared);
}
