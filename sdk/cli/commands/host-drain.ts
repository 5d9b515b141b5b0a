/** `skerry host drain`: empties a host, and says what could not move and why. */
import { Command } from "commander";
import { Fault } from "#kernel/fault.ts";
import { sleep } from "#kernel/retry.ts";
import type { RemainingMachine } from "../../extras.ts";
import type { Column } from "../output.ts";
import type { Run, Session } from "../session.ts";
import { parseDuration } from "../units.ts";

interface DrainOptions {
  readonly cold: boolean;
  readonly wait: boolean;
  readonly timeout?: number;
}

const lookMs = 500;
const defaultLimitMs = 24 * 3600_000;

export function drainCommand(run: Run): Command {
  return new Command("drain")
    .description("move all machines of a host elsewhere; it takes no new ones until it is uncordoned")
    .argument("<host>", "name or id")
    .option("--cold", "stop what cannot move as it runs, move it, and start it there", false)
    .option("--no-wait", "do not wait until it is empty, or nothing more can move")
    .option("--timeout <duration>", "how long to wait (default: 24h)", parseDuration)
    .action(run(drain));
}

async function drain(session: Session, name: string, { cold, wait, timeout }: DrainOptions): Promise<void> {
  const { signal } = session;
  const { hosts } = await session.cloud();
  const { id, name: found } = await hosts.find(name, { signal });
  const changed = await hosts.drain(id, { input: { cold }, signal });
  if (!wait) return session.out.done(`${found} is being drained.`, changed);
  const left = await follow(session, id, timeout ?? defaultLimitMs);
  if (left.length === 0) return session.out.done(`${found} is empty.`, changed);
  session.out.list(left, columns);
  throw new Fault("conflict", `${String(left.length)} of the machines of ${found} have not moved`, {
    reason: "DRAIN_INCOMPLETE",
    detail: { machines: left.map((machine) => machine.id) },
  });
}

/** Shows how it goes, until nothing is left or what is left is stuck; gives that. */
async function follow(session: Session, id: string, limitMs: number): Promise<readonly RemainingMachine[]> {
  const { hosts } = await session.cloud();
  const endsAt = performance.now() + limitMs;
  using progress = session.progress();
  for (;;) {
    const left = await hosts.remaining(id, { signal: session.signal });
    const count = (state: RemainingMachine["state"]) => left.filter((each) => each.state === state).length;
    const isOver = left.every(({ state }) => state === "stuck");
    if (isOver || performance.now() > endsAt) return left;
    progress.update(
      `${String(left.length)} left: ${String(count("moving"))} moving, ${String(count("stuck"))} stuck`,
    );
    await sleep(lookMs, session.signal);
  }
}

const columns: readonly Column<RemainingMachine>[] = [
  { title: "NAME", value: (r) => r.name },
  { title: "ID", value: (r) => r.id },
  { title: "PHASE", value: (r) => r.phase, phase: true },
  { title: "WHY", value: (r) => (r.error ? `${r.error.message} (${r.error.reason})` : r.state) },
];
