/**
 * A real guest moves to and fro while each part that its move stands on is struck, at each point of the way. Somebody
 * who watches from outside never sees two copies; in the end exactly one runs, with its memory, its disk and its
 * journal whole, nothing is left over, and the migration tells what became of it. Then guests move in a row with nobody
 * in the way, as fast as they can, and not a bit of their memory and disks may change.
 *
 * SKERRY_FAULTS=ci tries what is marked with + and *, SKERRY_FAULTS=all everything, and without it what is marked with
 * * is tried; SKERRY_ONLY names a part of that.
 */
import t from "tap";
import { MiB, seededRandom } from "./faults-world.ts";
import { type Fate, QemuStage } from "./qemu-stage.ts";
import { points, strikeLeaseMs, strikes, type PointName } from "./qemu-strikes.ts";

/**
 * What has to become of the move: it `moves`, the guest `stays` where it is, or `either`; it `ends` with the only QEMU
 * that has it, and begins anew from its disk; it `survives`, in one of these ways; `-` where the strike makes no sense.
 */
const matrix = `
                          preparing  disk-copy  pre-copy  switchover  committed  finish
from agent: kill -9       either     either+    stays+    either+     moves+     moves
from agent: hangs         either     either     either    either+     moves      moves
to agent: kill -9         either     either     stays+    either+     moves+     moves
to agent: hangs           either     either+    either    either      moves+     moves
from QEMU: kill -9        ends+      ends       ends+     either      moves+     moves
from QEMU: hangs          either     either+    either    either      moves      moves
to QEMU: kill -9          either     stays      stays+    survives+   survives   ends
to QEMU: hangs            either     either     either    either      moves+     moves
to disk: full             either     either+    either    either      moves      moves
from disk: full           either     either     either    either      moves      moves
control plane: kill -9    either     either     either    either*     moves+     moves
control plane: hangs      either     either     either+   either      moves      moves
PostgreSQL: kill -9       either     either     either+   either+     moves      moves+
PostgreSQL: hangs         either     either     either    either+     moves      moves
agents' way: cut          either     moves+     either+   either      moves      moves
agents' way: lost         either     moves+     either    either      moves      moves
agents' way: stalls       either     either     either    either      moves      moves
agents' way: a wrong bit  either     either     either+   either      moves      moves
gateway: cut              either     either     either    either+     moves+     moves
gateway: stalls           either     either     either    either      moves      moves+
its owner: cancel         stays      stays      stays+    either+     moves      moves
`;

/** Which marks are tried, and how often a guest moves in a row with nobody in the way. */
const tiers = {
  quick: { marks: "*", moves: 0 },
  ci: { marks: "*+", moves: 12 },
  all: { marks: "*+ ", moves: 60 },
} as const;
const told = process.env["SKERRY_FAULTS"] ?? "quick";
const tier = told in tiers ? (told as keyof typeof tiers) : "quick";
const { marks, moves } = tiers[tier];
const only = process.env["SKERRY_ONLY"];
const seed = Number(process.env["SKERRY_SEED"] ?? Date.now() % 1_000_000);
t.comment(`seed ${String(seed)}: SKERRY_SEED repeats it`);
if (tier !== "quick") t.setTimeout(7_200_000);

interface Case {
  readonly point: PointName;
  readonly strike: string;
  readonly fate: Fate;
}

function readMatrix(): Case[] {
  const [head = "", ...rows] = matrix.trim().split("\n");
  const columns = head.trim().split(/\s+/) as PointName[];
  return rows.flatMap((row) => {
    const [strike = "", ...cells] = row.split(/\s{2,}/);
    if (!(strike in strikes)) throw new Error(`nothing is called ${strike}`);
    return cells.flatMap((cell, index): Case[] => {
      const [, fate = "", mark = ""] = /^(\w+|-)(.?)$/.exec(cell) ?? [];
      const point = columns[index];
      if (!point || !(point in points)) throw new Error(`${strike} has too many cells`);
      return fate === "-" || !marks.includes(mark || " ") ? [] : [{ point, strike, fate: fate as Fate }];
    });
  });
}

const random = seededRandom(seed);
const cases = readMatrix()
  .filter(({ point, strike }) => only === undefined || `${point}: ${strike}`.includes(only))
  .map((one) => ({ one, place: random() }))
  .sort((a, b) => a.place - b.place)
  .map(({ one }) => one);
/** As it is by default: nobody who is merely slow counts as dead. */
const patientLeaseMs = 15_000;
/** A machine that dies too often is not started again: every few strikes there is a new guest. */
const casesOfGuest = 12;

if (cases.length > 0) {
  await t.test("struck", async (t) => {
    const stage = await QemuStage.set(t, seed, strikeLeaseMs);
    for (let at = 0; at < cases.length;) {
      await t.test(`a guest, from case ${String(at)} of ${String(cases.length)} on`, async (t) => {
        const end = Math.min(cases.length, at + casesOfGuest);
        await using guest = await stage.boot(`guest-${String(at)}`);
        // What fails ends this guest, and the next one goes on after it.
        while (at < end) {
          const { point, strike, fate } = cases[at++]!;
          await stage.tryOne(t, guest, point, strike, fate);
        }
        // After all that it moves as if nothing had been.
        await stage.move(t, guest, {});
        await stage.end(t, guest);
      });
    }
  });
}

/** Of each such guest. */
const movesOfGuest = 20;
const row = "moves in a row";
if (moves > 0 && row.includes(only ?? row)) {
  await t.test(row, async (t) => {
    const stage = await QemuStage.set(t, seed, patientLeaseMs);
    for (let moved = 0; moved < moves;) {
      await t.test(`a guest, from ${String(moved)} of ${String(moves)} on`, async (t) => {
        const end = Math.min(moves, moved + movesOfGuest);
        const cpus = 1 + Math.floor(random() * 2);
        const memoryBytes = (random() < 0.5 ? 128 : 256) * MiB;
        t.comment(`${String(cpus)} CPUs, ${String(memoryBytes / MiB)} MiB`);
        const shape = { cpus, memoryBytes, inMemory: 8, onDisk: 3, numbers: 60_000 };
        await using guest = await stage.boot(`row-${String(moved)}`, shape);
        while (moved < end) {
          moved++;
          const wan_optimization = (["auto", "on", "off"] as const)[Math.floor(random() * 3)];
          const bandwidth_limit = random() < 0.5 ? null : 32 * MiB;
          // On a host that has much else to do it may take long; it is not to be given up for that.
          await stage.move(t, guest, { wan_optimization, bandwidth_limit, on_unreachable: "force" });
        }
        await stage.end(t, guest);
      });
    }
  });
}
