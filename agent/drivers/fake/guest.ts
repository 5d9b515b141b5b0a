/**
 * What runs inside a fake machine that has been told to: a counter in its memory that ticks. Each tick writes to
 * memory and disk and prints a line with a token that was drawn when the machine started. The token moves with the
 * memory, so whoever reads all consoles sees every number of a token once, unless two copies ran or one lost time.
 */
import { createHash, randomUUID } from "node:crypto";
import { appendFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { PageFile, pageBytes } from "./page-file.ts";

export interface GuestSize {
  readonly memoryPages: number;
  readonly diskPages: number;
}

const tokenBytes = 36;
const headBytes = 8 + tokenBytes;

export class FakeGuest implements Disposable {
  readonly memory: PageFile;
  readonly disk: PageFile;
  readonly #consoleLog: string;

  constructor(directory: string, consoleLog: string, { memoryPages, diskPages }: GuestSize) {
    const files = guestFiles(directory);
    this.memory = PageFile.open(files.memory, memoryPages);
    this.disk = PageFile.open(files.disk, diskPages);
    this.#consoleLog = consoleLog;
  }

  /** A machine that is turned on has a memory of its own. */
  boot(): void {
    if (this.#head.token !== "") return;
    const token = randomUUID();
    this.#writeHead(0n, token);
    // Half of the memory is in use; the rest are zeros, as in most machines.
    for (let page = 2; page < this.memory.pages; page += 2) {
      const content = createHash("shake256", { outputLength: pageBytes }).update(`${token}/${String(page)}`);
      this.memory.write(page, content.digest());
    }
  }

  get counter(): bigint {
    return this.#head.counter;
  }

  /** Counts on, and changes so many pages of its memory besides. */
  tick(dirtyPages: number): void {
    const { counter: before, token } = this.#head;
    const counter = before + 1n;
    const mark = Buffer.from(`${token} ${String(counter)}\n`);
    for (let i = 0; i < Math.min(dirtyPages, this.memory.pages - 1); i++) {
      const page = Number((counter * BigInt(dirtyPages) + BigInt(i)) % BigInt(this.memory.pages - 1));
      this.memory.write(page + 1, mark);
    }
    this.disk.write(Number(counter % BigInt(this.disk.pages)), mark);
    this.#writeHead(counter, token);
    appendFileSync(this.#consoleLog, `tick ${token} ${String(counter)}\r\n`, "latin1");
  }

  [Symbol.dispose](): void {
    this.memory[Symbol.dispose]();
    this.disk[Symbol.dispose]();
  }

  get #head(): { readonly counter: bigint; readonly token: string } {
    const head = this.memory.read(0);
    const token = head.toString("latin1", 8, headBytes).replaceAll("\0", "");
    return { counter: head.readBigUInt64BE(0), token };
  }

  #writeHead(counter: bigint, token: string): void {
    const head = Buffer.alloc(headBytes);
    head.writeBigUInt64BE(counter, 0);
    head.write(token, 8, "latin1");
    this.memory.write(0, head);
  }
}

/** The machine is off: what was in its memory is gone. */
export function loseMemory(directory: string): void {
  rmSync(guestFiles(directory).memory, { force: true });
}

export function guestFiles(directory: string): { readonly memory: string; readonly disk: string } {
  return { memory: join(directory, "memory.bin"), disk: join(directory, "disk.bin") };
}
