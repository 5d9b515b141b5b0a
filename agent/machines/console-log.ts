/**
 * The bytes that a serial port printed, by their offset since the machine was made. The hypervisor appends
 * to the file even while no agent runs; when it has grown large it is moved aside and emptied, and the
 * offsets go on. The file before the present one is kept, older output is gone.
 */
import { copyFile, open, readFile, stat, truncate } from "node:fs/promises";
import { DurableFolder } from "./durable-file.ts";
import { basename, dirname } from "node:path";

export interface LogChunk {
  readonly output: Uint8Array<ArrayBuffer>;
  /** Offset of the byte after `output`. */
  readonly offset: number;
  readonly endOffset: number;
}

const rotateBytes = 4 * 1024 * 1024;

export class ConsoleLog {
  readonly path: string;
  readonly #rotateBytes: number;

  constructor(path: string, options: { readonly rotateBytes?: number } = {}) {
    this.path = path;
    this.#rotateBytes = options.rotateBytes ?? rotateBytes;
  }

  /** At most `limit` bytes from `offset` on; -1: the last `limit`. What is gone is skipped, what is not there yet is empty. */
  async read(offset: number, limit: number): Promise<LogChunk> {
    const base = await this.#base();
    const [older, newer] = await Promise.all([sizeOf(`${this.path}.1`), sizeOf(this.path)]);
    const end = base + newer;
    const first = base - Math.min(older, base);
    const from = offset < 0 ? Math.max(first, end - limit) : Math.min(Math.max(offset, first), end);
    const output =
      from < base
        ? await readPart(`${this.path}.1`, from - first, Math.min(limit, base - from))
        : await readPart(this.path, from - base, Math.min(limit, end - from));
    return { output, offset: from + output.length, endOffset: end };
  }

  /**
   * Moves a large file aside. What is printed between the copy and the emptying is lost: the
   * hypervisor holds the file open, so there is no moment in which nobody writes.
   */
  async rotate(): Promise<boolean> {
    const size = await sizeOf(this.path);
    if (size <= this.#rotateBytes) return false;
    const base = await this.#base();
    await copyFile(this.path, `${this.path}.1`);
    // First the new base: a kill between the two skips offsets, the other order would repeat them.
    const name = `${basename(this.path)}.base`;
    await new DurableFolder(dirname(this.path)).write(name, String(base + (await sizeOf(`${this.path}.1`))));
    await truncate(this.path);
    return true;
  }

  /** Offset of the present file's first byte. */
  async #base(): Promise<number> {
    return Number(await orAbsent(readFile(`${this.path}.base`, "utf8"), "0"));
  }
}

async function sizeOf(path: string): Promise<number> {
  return orAbsent(
    stat(path).then(({ size }) => size),
    0,
  );
}

async function readPart(path: string, position: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
  const buffer = new Uint8Array(length);
  if (length === 0) return buffer;
  const file = await open(path, "r");
  try {
    const { bytesRead } = await file.read(buffer, 0, length, position);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

async function orAbsent<T>(work: Promise<T>, otherwise: T): Promise<T> {
  return work.catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return otherwise;
    throw error;
  });
}
