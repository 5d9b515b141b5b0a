/**
 * A real guest moves to and fro while each part that its move stands on is struck, at each point of the way. Somebody
 * who watches from outside never sees two copies; in the end exactly one runs, with its memory, its disk and its
 * journal whole, nothing is left over, and the migration tells what became of it. SKERRY_FAULTS=ci tries what is marked
 * with + and *, SKERRY_FAULTS=all everything; without it what is marked with * is tried.
 */
import t from "tap";
import { seededRandom } from "./faults-world.ts";
import { type Fate, QemuStage } from "./qemu-stage.ts";
import { points, strikes, type PointName } from "./qemu-strikes.ts";

/**
 * What has to become of the move: it `moves`, the guest `stays` where it is, or `either`; it `ends` with the only QEMU
 * that has it, and begins anew from its disk; `-` where the strike makes no sense.
 */
const matrix = `
                          preparing  disk-copy  pre-copy  switchover  committed  finish
from agent: kill -9       either     either*    stays+    either+     moves+     moves
from agent: hangs         either     either     either    either+     moves      moves
to agent: kill -9         either     either     stays+    either+     moves+     moves
to agent: hangs           either     either+    either    either      moves+     moves
from QEMU: kill -9        ends+      ends       ends+     either      moves+     moves
from QEMU: hangs          either     either+    either    either      moves      moves
to QEMU: kill -9          stays      stays      stays+    either+     ends       ends
to QEMU: hangs            either     either     either    either      moves+     moves
to disk: full             either     stays+     either    either      moves      moves
from disk: full           either     either     either    either      moves      moves
control plane: kill -9    either     either     either    either*     moves+     moves
control plane: hangs      either     either     either+   either      moves      moves
PostgreSQL: kill -9       either     either     either+   either+     moves      moves+
PostgreSQL: hangs         either     either     either    either+     moves      moves
agents' way: cut          either     moves+     stays+    either      moves      moves
agents' way: stalls       either     either     either    either      moves      moves
agents' way: a wrong bit  either     either     stays+    either      moves      moves
gateway: cut              either     either     either    either+     moves+     moves
gateway: stalls           either     either     either    either      moves      moves+
its owner: cancel         stays      stays      stays+    either+     moves      moves
`;

const marks = { quick: "*", ci: "*+", all: "*+ " } as const;
const told = process.env["SKERRY_FAULTS"] ?? "quick";
const tier = told in marks ? (told as keyof typeof marks) : "quick";
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
      return fate === "-" || !marks[tier].includes(mark || " ")
        ? []
        : [{ point, strike, fate: fate as Fate }];
    });
  });
}

const random = seededRandom(seed);
const cases = readMatrix()
  .filter(({ point, strike }) => only === undefined || `${point}: ${strike}`.includes(only))
  .map((one) => ({ one, place: random() }))
  .sort((a, b) => a.place - b.place)
  .map(({ one }) => one);
/** A machine that dies too often is not started again: every few strikes there is a new guest. */
const casesOfGuest = 12;

const stage = await QemuStage.set(t, seed);
for (let at = 0; at < cases.length; at += casesOfGuest) {
  await t.test(`a guest, from case ${String(at)} of ${String(cases.length)} on`, async (t) => {
    await using guest = await stage.boot(`guest-${String(at)}`);
    for (const { point, strike, fate } of cases.slice(at, at + casesOfGuest)) {
      await stage.tryOne(t, guest, point, strike, fate);
    }
    await stage.end(t, guest);
  });
}
