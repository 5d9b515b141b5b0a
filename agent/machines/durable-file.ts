/**
 * Files that are either the old or the new content after a power cut, never a mixture: written beside,
 * flushed, renamed, and the folder flushed. Flushes of the folder are shared by all writes that wait
 * for one, so that many machines at once do not cost a flush each.
 *
 * Only flushes are handed to another thread. The other calls touch memory, for some microseconds, and handing one over
 * costs several times that: made in that way they were a fifth of a busy agent's time.
 */
import { closeSync, constants, fsync, openSync, renameSync, writeSync } from "node:fs";
import { unlink } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { Fault } from "#kernel/fault.ts";

/** A write of no more than this, to the beginning of a file, is done whole or not at all. */
const pageBytes = 4096;

export class DurableFolder {
  readonly path: string;
  #running: Promise<void> = Promise.resolve();
  #waiting: Promise<void> | undefined;

  constructor(path: string) {
    this.path = path;
  }

  /** Replaces the file. One write per name at a time; `exhausted` when the disk is full. */
  async write(name: string, text: string): Promise<void> {
    try {
      await replace(join(this.path, name), Buffer.from(text), { durable: true });
      await this.#flush();
    } catch (cause) {
      throw storageFault(cause);
    }
  }

  /**
   * Replaces the file without waiting for the disk: safe against a kill but not against a power cut, at a fraction of
   * the cost. A text that fits in a page goes over the file's beginning, in one call that no kill can cut in two; a
   * longer one is written beside and renamed. What a longer text left behind stays: the reader must see where one ends.
   */
  async overwrite(name: string, text: string): Promise<void> {
    const path = join(this.path, name);
    const bytes = Buffer.from(text);
    try {
      if (bytes.length <= pageBytes)
        await withFile(path, constants.O_WRONLY | constants.O_CREAT, (file) => writeWhole(file, bytes));
      else await replace(path, bytes, { durable: false });
    } catch (cause) {
      throw storageFault(cause);
    }
  }

  /** Deletes the file; absent is success. */
  async remove(name: string): Promise<void> {
    try {
      await unlink(join(this.path, name));
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw storageFault(cause);
    }
  }

  /** One flush that has not begun yet serves all who ask for it; one under way may have missed a rename. */
  #flush(): Promise<void> {
    return (this.#waiting ??= this.#flushAfter(this.#running));
  }

  async #flushAfter(previous: Promise<void>): Promise<void> {
    await previous.catch(() => undefined); // told to those who waited for that one
    this.#waiting = undefined;
    this.#running = withFile(this.path, constants.O_RDONLY, flush);
    await this.#running;
  }
}

const flush = promisify(fsync);

async function replace(path: string, bytes: Uint8Array, { durable }: { durable: boolean }): Promise<void> {
  const beside = `${path}.new`;
  try {
    await withFile(beside, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, async (file) => {
      writeWhole(file, bytes);
      if (durable) await flush(file);
    });
    renameSync(beside, path);
  } catch (cause) {
    await unlink(beside).catch(() => undefined); // it may not have come to be; the fault below is what counts
    throw cause;
  }
}

async function withFile(
  path: string,
  flags: number,
  use: (file: number) => void | Promise<void>,
): Promise<void> {
  const file = openSync(path, flags, 0o600);
  try {
    await use(file);
  } finally {
    closeSync(file);
  }
}

function writeWhole(file: number, bytes: Uint8Array): void {
  // The system tells of the lack of room only when asked to write on; what is there now nobody can read.
  if (writeSync(file, bytes, 0, bytes.length, 0) < bytes.length)
    throw Object.assign(new Error("a short write"), { code: "ENOSPC" });
}

function storageFault(cause: unknown): Fault {
  const code = (cause as NodeJS.ErrnoException).code ?? "";
  if (["ENOSPC", "EDQUOT", "EFBIG"].includes(code)) {
    return new Fault("exhausted", "the host's disk is full", { reason: "HOST_DISK_FULL", cause });
  }
  return new Fault("internal", "the host cannot write its records", { reason: "HOST_STORAGE_FAILED", cause });
}
