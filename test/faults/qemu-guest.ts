/** A real guest that vouches for itself, and those who watch it from outside. */
import { MoveObserver } from "#test/support/move-observer.ts";
import { QemuObserver } from "#test/support/qemu-observer.ts";
import { until } from "#test/support/until.ts";
import { type Areas, GuestEar } from "./vouching-guest.ts";

const vouchLimitMs = 90_000;
const pollMs = 20;
/** What is on a console stays there: to look closely would only take from the guests. */
const lookMs = 20;

/** Counts of what was seen of a guest. */
export type Noted = Readonly<Record<"twice" | "gaps" | "damage" | "lives", number>>;

/** A line that was being printed when the guest stopped is in part on each console; its journal has the number. */
function isCutLine(gap: string): boolean {
  const [, count, host, last, before] = /(\d+) on (\S+) after (\d+) on (\S+)$/.exec(gap) ?? [];
  return host !== before && Number(count) === Number(last) + 2;
}

export class QemuGuest implements AsyncDisposable {
  readonly id: string;
  readonly ear: GuestEar;
  readonly consoles: MoveObserver;
  readonly qemus: QemuObserver;
  readonly #areas: Areas;

  constructor(id: string, folders: Readonly<Record<string, string>>, areas: Areas) {
    this.id = id;
    this.#areas = areas;
    this.ear = new GuestEar(areas);
    this.consoles = new MoveObserver(folders, lookMs, (line) => this.ear.hear(line));
    this.qemus = new QemuObserver(folders);
  }

  /** How much has been noted so far. */
  get noted(): Noted {
    const { consoles, qemus, ear } = this;
    return {
      twice: qemus.seen.length + consoles.seen.length,
      gaps: consoles.gaps.length,
      damage: ear.damage.length,
      lives: consoles.lives.length,
    };
  }

  /** What was noted since then. */
  since(before: Noted): { twice: string[]; gaps: string[]; damage: string[]; lives: number } {
    const { consoles, qemus, ear } = this;
    const lives = consoles.lives.length - before.lives;
    return {
      twice: [...qemus.seen, ...consoles.seen].slice(before.twice),
      gaps: consoles.gaps.slice(before.gaps).filter((gap) => !isCutLine(gap)),
      damage: ear.damage.slice(before.damage),
      lives,
    };
  }

  /** It counts on, and has looked at every area of its memory and its disk since. */
  async vouches(): Promise<void> {
    const { ticks } = this.consoles;
    const { inMemory, onDisk } = this.#areas;
    // A round that was under way may have looked at some before.
    const checks = this.ear.checks + 2 * (inMemory + onDisk);
    const counts = () => this.consoles.ticks > ticks + 3 && this.ear.checks >= checks;
    await until(counts, vouchLimitMs, pollMs).catch(async (cause: unknown) => {
      const now = { ticks: this.consoles.ticks - ticks, short: checks - this.ear.checks };
      const told = JSON.stringify({ ...now, qemus: await this.qemus.looks() });
      throw new Error(`the guest does not vouch for itself: ${told}`, { cause });
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.consoles[Symbol.dispose]();
    await this.qemus[Symbol.asyncDispose]();
  }
}
