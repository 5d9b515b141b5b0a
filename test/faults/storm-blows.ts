/** What strikes a move in the storm, and how often in proportion. Each blow is mended by itself. */
import { quietly, testCtx, type Replica, type World } from "#test/support/engine-world.ts";
import { migration } from "#cp/resources/migration/migration.resource.ts";
import { isFault } from "#kernel/fault.ts";
import { sleep } from "#kernel/retry.ts";
import { mishaps, type MovingHost } from "#test/support/moving-host.ts";
import type { PipedMoves } from "#test/support/piped-moves.ts";

/** What a blow falls on. */
export interface Target {
  readonly instance: string;
  readonly migration: string;
  readonly from: MovingHost;
  readonly to: MovingHost;
}

export interface Storm {
  readonly world: World<MovingHost>;
  readonly moves: PipedMoves;
  /** Takes the owners' requests. */
  readonly front: Replica;
  /** The replica that works is to die at its next commit. */
  readonly killReplica: () => void;
  /** Tells the control plane all that a host has, as its agent does on a new connection. */
  readonly tellAll: (host: MovingHost) => Promise<void>;
}

/** How often one kind falls, in proportion, and what it does: how many times something was struck. */
interface Blow {
  readonly weight: number;
  readonly strike: (target: Target, random: () => number) => Promise<number> | number;
}

const longestAbsenceMs = 60;
const longestStallMs = 60;

/** Lets those through that are an answer too. */
export function unless(...codes: ("conflict" | "unavailable" | "notFound")[]): (thrown: unknown) => void {
  return (thrown) => {
    if (!codes.some((code) => isFault(thrown, code))) throw thrown;
  };
}

export function blowsOf({
  world,
  moves,
  front,
  killReplica,
  tellAll,
}: Storm): Readonly<Record<string, Blow>> {
  /** A second death waits for the first one's end. */
  const dying = new Map<MovingHost, Promise<void>>();
  const dieAndRevive = (host: MovingHost, forMs: number): Promise<number> => {
    const done = (dying.get(host) ?? Promise.resolve()).then(async () => {
      await host.kill();
      await sleep(forMs);
      await host.revive();
      await tellAll(host);
    });
    dying.set(host, done);
    return done.then(() => 1);
  };
  const goAway = async (host: MovingHost, forMs: number) => {
    if (!host.connected) return 0;
    host.connected = false;
    await sleep(forMs);
    host.connected = true;
    await tellAll(host);
    return 1;
  };
  const either = ({ from, to }: Target, random: () => number) => (random() < 0.5 ? from : to);
  const changed = async (sql: string, values: readonly unknown[]) =>
    (await world.database.query(sql, values).catch(unless("unavailable")))?.length ?? 0;

  const blows: Record<string, Blow> = {
    "agent killed": {
      weight: 2,
      strike: (target, random) => dieAndRevive(either(target, random), random() * longestAbsenceMs),
    },
    "both agents killed": {
      weight: 1,
      strike: async ({ from, to }, random) => {
        const [one, other] = [dieAndRevive(from, random() * 20), dieAndRevive(to, random() * 20)];
        return (await one) + (await other);
      },
    },
    "host unreachable": {
      weight: 3,
      strike: (target, random) => goAway(either(target, random), random() * longestAbsenceMs),
    },
    "memory cut": { weight: 1, strike: ({ migration: id }) => moves.cut("memory", id) },
    "disk cut": { weight: 8, strike: ({ migration: id }) => moves.cut("disk:root", id) },
    "channels stalled": {
      weight: 3,
      strike: ({ migration: id }, random) => moves.stall(random() * longestStallMs, id),
    },
    "replica killed": {
      weight: 2,
      strike: () => {
        killReplica();
        return 0; // told when it has died
      },
    },
    "lease lost": {
      weight: 10,
      strike: ({ instance: key }) =>
        changed(
          `update work set lease_until = now() - interval '1 second'
           where key = $1 and lease_until > now() returning key`,
          [key],
        ),
    },
    "database connection dropped": {
      weight: 4,
      strike: (_, random) =>
        changed(
          `select pg_terminate_backend(pid) from
             (select pid, row_number() over (order by pid) - 1 as position, count(*) over () as count
              from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()) backend
           where position = floor($1::float8 * count)`,
          [random()],
        ),
    },
    cancelled: {
      weight: 1,
      strike: async ({ migration: id }) => {
        const cancel = front.resources.invoke(testCtx(), migration, id, "cancel", {}, quietly);
        return cancel.then(() => 1, unless("conflict", "unavailable")).then((struck) => struck ?? 0);
      },
    },
    "driver fails": {
      weight: 2,
      strike: (target, random) => {
        const calls = ["receive", "ensure", "remove", "disk-copy", "pre-copy", "switchover"] as const;
        const call = calls[Math.floor(random() * calls.length)]!;
        const when = random() < 0.5 ? "before" : "after";
        const passing = random() < 0.7;
        const fault = passing
          ? ({ code: "unavailable", reason: "HOST_BUSY" } as const)
          : ({ code: "exhausted", reason: "DISK_FULL" } as const);
        const isSource = !["receive", "ensure"].includes(call);
        const host = isSource ? target.from : target.to;
        host.driver.set({ failures: [{ call, when, times: 1, ...fault }] });
        return 1;
      },
    },
  };
  for (const mishap of mishaps) {
    const weight = mishap === "bit turned" ? 1 : 8;
    const strike: Blow["strike"] = (target, random) => {
      (mishap === "bit turned" ? target.to : either(target, random)).suffer(mishap);
      return 0; // told when it has happened
    };
    blows[mishap] = { weight, strike };
  }
  return blows;
}
