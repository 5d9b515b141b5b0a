/**
 * A real guest that vouches for itself. It counts on its console, each number on its disk before it is told; and it
 * goes round areas of its memory and its disk, writes one anew with content that the test can work out as well, reads
 * all of them and tells their checksums. What its kernel complains of is on the console too.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Life } from "#test/support/move-observer.ts";

const run = promisify(execFile);

/** What a guest goes round of. */
export interface Areas {
  /** Decides what they hold. */
  readonly seed: number;
  readonly inMemory: number;
  readonly onDisk: number;
  /** Numbers in each, of seven bytes. */
  readonly numbers: number;
}

/** Microseconds between two rounds, so that the guest leaves something of the host to others. */
const pause = 200_000;

/** What it runs at each boot. */
export function vouchingScript({ seed, inMemory, onDisk, numbers }: Areas): string {
  const files = [...namesIn("/tmp", inMemory), ...namesIn("/data", onDisk)];
  return `#!/bin/sh
token=$(cut -c1-8 /proc/sys/kernel/random/uuid)
(
  i=0
  while :; do
    i=$((i + 1))
    echo "$token $i" >>/data/journal
    sync
    echo "tick $token $i"
    usleep 20000
  done
) &
areas="${files.join(" ")}"
round=0
while :; do
  n=0
  for file in $areas; do
    n=$((n + 1))
    round=$((round + 1))
    from=$((${String(seed)} + round * 10))
    seq $from $((from + ${String(numbers - 1)})) >$file
    eval "round_$n=$round"
    case $file in /data/*) sync ;; esac
    echo 1 >/proc/sys/vm/drop_caches
    m=0
    for other in $areas; do
      m=$((m + 1))
      eval "wrote=\\$round_$m"
      [ -n "$wrote" ] && echo "area $m $wrote $(md5sum <$other)"
    done
    usleep ${String(pause)}
  done
done
`;
}

function namesIn(folder: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => `${folder}/area-${String(index + 1)}`);
}

/** Words of a kernel or a program that fell over; the built-in guest prints none of them otherwise. */
const complaints =
  /\b(Oops|BUG|Kernel panic|Call Trace|general protection|segfault|I\/O error|EXT4-fs error|Bad page)\b/i;

/** Of lines that are hashed at once. */
const pieceLines = 1000;

/** Listens to what a guest says of itself. */
export class GuestEar {
  /** Checksums that were right. */
  checks = 0;
  /** What was not as it must be. */
  readonly damage: string[] = [];
  readonly #areas: Areas;
  readonly #expected = new Map<number, string>();

  constructor(areas: Areas) {
    this.#areas = areas;
  }

  hear(line: string): void {
    const [, area, round, sum] = /area (\d+) (\d+) ([0-9a-f]{32}) /.exec(line) ?? [];
    if (sum !== undefined) {
      if (this.#sumOf(Number(round)) === sum) this.checks++;
      else this.damage.push(`area ${String(area)} of round ${String(round)} has ${sum}`);
    } else if (complaints.test(line)) this.damage.push(line);
  }

  #sumOf(round: number): string {
    const known = this.#expected.get(round);
    if (known !== undefined) return known;
    const hash = createHash("md5");
    const from = this.#areas.seed + round * 10;
    for (let at = from; at < from + this.#areas.numbers; at += pieceLines) {
      hash.update(Array.from({ length: pieceLines }, (_, index) => `${String(at + index)}\n`).join(""));
    }
    const sum = hash.digest("hex");
    this.#expected.set(round, sum);
    return sum;
  }
}

/** What is wrong with the disk of a guest that is off: its file, its file system, or what is missing in the journal. */
export async function findDiskDamage(disk: string, lives: readonly Life[]): Promise<string[]> {
  const directory = await mkdtemp(join(tmpdir(), "skerry-disk-"));
  try {
    const raw = join(directory, "disk.raw");
    const journal = join(directory, "journal");
    const complaints = [
      await complaintOf("qemu-img", "check", disk),
      await complaintOf("qemu-img", "convert", "-O", "raw", disk, raw),
      await complaintOf("e2fsck", "-fn", raw),
      await complaintOf("debugfs", "-R", `dump /journal ${journal}`, raw),
    ];
    const lines = (await readFile(journal, "utf8")).split("\n").slice(0, -1);
    return [...complaints.filter((text) => text !== ""), ...findGaps(lines, lives)];
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** Empty when the program is content. */
async function complaintOf(program: string, ...args: string[]): Promise<string> {
  return await run(program, args).then(
    () => "",
    (error: unknown) => `${program}: ${String((error as { stdout?: string }).stdout)} ${String(error)}`,
  );
}

/** Each life's numbers from one on, in order, and at least those that were told. */
function findGaps(lines: readonly string[], lives: readonly Life[]): string[] {
  const expected: string[] = [];
  let at = 0;
  for (const { token, last } of lives) {
    let count = 0;
    while (lines[at] === `${token} ${String(count + 1)}`) {
      at++;
      count++;
    }
    if (count < last) expected.push(`the journal has ${String(count)} of ${String(last)} of ${token}`);
  }
  if (at < lines.length) expected.push(`the journal goes on with ${String(lines[at])}`);
  return expected;
}
