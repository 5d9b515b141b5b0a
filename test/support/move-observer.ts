/**
 * Watches a fake machine from outside: every few milliseconds its run state in each host's folder and what its guest
 * has counted on each console. Nothing that an agent or a control plane says is believed here.
 *
 * A guest's counter and its token move with its memory, so a number that is counted twice means two copies or an old
 * one, and a number that is missing means time lost. A folder may go at any moment: consoles are held open, so that
 * their last lines are read all the same.
 */
import { createHash } from "node:crypto";
import { closeSync, fstatSync, openSync, readFileSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { pageBytes } from "#agent/drivers/fake/page-file.ts";

/** One life of the guest, from the boot that drew the token. */
export interface Life {
  readonly token: string;
  last: number;
  host: string;
}

export class MoveObserver implements Disposable {
  readonly #watched: readonly Watched[];
  readonly #timer: NodeJS.Timeout;
  /** Everything that must never be: two copies, and numbers that came again. */
  readonly seen: string[] = [];
  /** Numbers that never came: a guest killed between counting and printing leaves one. */
  readonly gaps: string[] = [];
  readonly lives: Life[] = [];
  samples = 0;
  #before = 0;

  /**
   * @param folders of the machine, by host
   * @param hear told every other line that the guest prints
   */
  constructor(folders: Readonly<Record<string, string>>, everyMs = 3, hear?: (line: string) => void) {
    this.#watched = Object.entries(folders).map(([host, folder]) => new Watched(host, folder, hear));
    this.#timer = setInterval(() => this.sample(), everyMs);
  }

  /** Hosts on which it runs at this moment. */
  running(): string[] {
    return this.#watched.filter((one) => one.runs()).map(({ host }) => host);
  }

  /** Numbers that were counted, of all lives. */
  get ticks(): number {
    return this.#before + (this.lives.at(-1)?.last ?? 0);
  }

  sample(): void {
    this.samples++;
    const running = this.running();
    // One may have ended between the two looks: only what is still so is true.
    if (running.length > 1 && running.join() === this.running().join()) {
      this.seen.push(`it runs on ${running.join(" and ")}`);
    }
    const ticks = this.#watched.flatMap((one) => one.read());
    // What was printed earlier elsewhere is in this sample or was in one before.
    ticks.sort((a, b) => this.#lifeOf(a.token) - this.#lifeOf(b.token) || a.count - b.count);
    for (const tick of ticks) this.#note(tick);
  }

  /**
   * What the guest wrote to its disk and is not there; the machine is off.
   * @param disk the file with its pages
   */
  findLostWrites(disk: string): string[] {
    const content = readFileSync(disk);
    const pages = content.length / pageBytes;
    const expected = new Map<number, string>();
    for (const { token, last } of this.lives) {
      for (let count = Math.max(1, last - pages + 1); count <= last; count++) {
        expected.set(count % pages, `${token} ${String(count)}\n`);
      }
    }
    const holds = (page: number, mark: string) =>
      content.toString("latin1", page * pageBytes, page * pageBytes + mark.length) === mark;
    return [...expected].filter(([page, mark]) => !holds(page, mark)).map(([, mark]) => mark.trim());
  }

  /**
   * Pages of its memory that are not what the guest made them; it runs in this process, and stands still meanwhile.
   * @param memory the file with its pages @param dirtyPages that each tick changes
   */
  findWrongMemory(memory: string, dirtyPages: number): string[] {
    const content = readFileSync(memory);
    const pages = content.length / pageBytes;
    const counter = Number(content.readBigUInt64BE(0));
    const token = content.toString("latin1", 8, 44);
    const known = this.lives.at(-1);
    const wrong = token === known?.token ? [] : [`its token is ${token}`];
    const expected = bootedMemory(token, pages);
    for (let count = Math.max(1, counter - pages); count <= counter; count++) {
      for (let i = 0; i < dirtyPages; i++) {
        const page = 1 + ((count * dirtyPages + i) % (pages - 1));
        expected.write(`${token} ${String(count)}\n`, page * pageBytes, "latin1");
      }
    }
    for (let at = pageBytes; at < content.length; at += pageBytes) {
      if (content.compare(expected, at, at + pageBytes, at, at + pageBytes) !== 0) {
        wrong.push(`page ${String(at / pageBytes)} at ${String(counter)}`);
      }
    }
    return wrong;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    for (const one of this.#watched) one[Symbol.dispose]();
  }

  #lifeOf(token: string): number {
    const known = this.lives.findIndex((life) => life.token === token);
    return known < 0 ? this.lives.length : known;
  }

  #note({ host, token, count }: Tick): void {
    const position = this.#lifeOf(token);
    const life = this.lives[position] ?? { token, last: 0, host };
    if (position === this.lives.length) {
      this.#before = this.ticks;
      this.lives.push(life);
    } else if (position < this.lives.length - 1) {
      this.seen.push(`an earlier life counted ${String(count)} on ${host}`);
    }
    const what = `${token} ${String(count)} on ${host} after ${String(life.last)} on ${life.host}`;
    if (count <= life.last) this.seen.push(`counted again: ${what}`);
    else if (count > life.last + 1) this.gaps.push(what);
    life.last = Math.max(count, life.last);
    life.host = host;
  }
}

interface Tick {
  readonly host: string;
  readonly token: string;
  readonly count: number;
}

/** The machine's folder on one host. */
class Watched {
  readonly host: string;
  readonly #folder: string;
  readonly #hear: ((line: string) => void) | undefined;
  #console: { readonly file: number; readonly inode: number } | undefined;
  #offset = 0;
  #rest = "";
  /** As it was when it was last read; a state is written beside and renamed. */
  #state = { version: "0 0", runs: false };
  readonly #buffer = Buffer.alloc(64 * 1024);

  constructor(host: string, folder: string, hear: ((line: string) => void) | undefined) {
    this.host = host;
    this.#folder = folder;
    this.#hear = hear;
  }

  runs(): boolean {
    const path = join(this.#folder, "fake.json");
    const { ino = 0n, mtimeNs = 0n } = statSync(path, { bigint: true, throwIfNoEntry: false }) ?? {};
    const version = `${String(ino)} ${String(mtimeNs)}`;
    if (version !== this.#state.version) {
      const text = ifThere(() => readFileSync(path, "utf8")) ?? "{}";
      const { running, hold } = JSON.parse(text) as { running?: object; hold?: object };
      this.#state = { version, runs: running !== undefined && hold === undefined };
    }
    return this.#state.runs;
  }

  /** What was printed since the last time. */
  read(): Tick[] {
    const before = this.#console ? this.#readOn(this.#console.file) : [];
    return [...before, ...this.#follow()];
  }

  [Symbol.dispose](): void {
    if (this.#console) closeSync(this.#console.file);
    this.#console = undefined;
  }

  /** A console that was begun anew is read from its beginning. */
  #follow(): Tick[] {
    const path = join(this.#folder, "console.log");
    if (statSync(path, { throwIfNoEntry: false })?.ino === this.#console?.inode) return [];
    const file = ifThere(() => openSync(path, "r"));
    if (file === undefined) return [];
    const inode = fstatSync(file).ino;
    if (inode === this.#console?.inode) {
      closeSync(file);
      return [];
    }
    this[Symbol.dispose]();
    this.#console = { file, inode };
    this.#offset = 0;
    this.#rest = "";
    return this.#readOn(file);
  }

  #readOn(file: number): Tick[] {
    for (;;) {
      const count = readSync(file, this.#buffer, 0, this.#buffer.length, this.#offset);
      if (count === 0) break;
      this.#offset += count;
      this.#rest += this.#buffer.toString("latin1", 0, count);
    }
    const lines = this.#rest.split("\r\n");
    this.#rest = lines.pop() ?? "";
    return lines.flatMap((line) => {
      // A prompt may stand before it, without an end of its own.
      const [, token, count] = /\btick (\S+) (\d+)$/.exec(line) ?? [];
      if (token !== undefined) return { host: this.host, token, count: Number(count) };
      this.#hear?.(line);
      return [];
    });
  }
}

/** As a guest's boot fills it, but for its first page. */
function bootedMemory(token: string, pages: number): Buffer {
  const memory = Buffer.alloc(pages * pageBytes);
  for (let page = 2; page < pages; page += 2) {
    const content = createHash("shake256", { outputLength: pageBytes }).update(`${token}/${String(page)}`);
    content.digest().copy(memory, page * pageBytes);
  }
  return memory;
}

/** Undefined when there is no such file. */
function ifThere<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
