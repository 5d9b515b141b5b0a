/**
 * Files that are either the old or the new content after a power cut, never a mixture: written beside,
 * flushed, renamed, and the folder flushed. Flushes of the folder are shared by all writes that wait
 * for one, so that many machines at once do not cost a flush each.
 */
import { constants } from "node:fs";
import { open, rename, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
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
      await replace(join(this.path, name), Buffer.from(text), { flush: true });
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
      if (bytes.length <= pageBytes) await writeOver(path, bytes);
      else await replace(path, bytes, { flush: false });
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
    this.#running = flushFolder(this.path);
    await this.#running;
  }
}

async function replace(
  path: string,
  bytes: Uint8Array,
  { flush }: { readonly flush: boolean },
): Promise<void> {
  const beside = `${path}.new`;
  try {
    await writeFile(beside, bytes, { mode: 0o600, flush });
    await rename(beside, path);
  } catch (cause) {
    await unlink(beside).catch(() => undefined); // it may not have come to be; the fault below is what counts
    throw cause;
  }
}

async function writeOver(path: string, bytes: Uint8Array): Promise<void> {
  await using file = await open(path, constants.O_WRONLY | constants.O_CREAT, 0o600);
  const { bytesWritten } = await file.write(bytes, 0, bytes.length, 0);
  // The system tells of the lack of room only when asked to write on; what is there now nobody can read.
  if (bytesWritten < bytes.length) throw Object.assign(new Error("a short write"), { code: "ENOSPC" });
}

async function flushFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

function storageFault(cause: unknown): Fault {
  const code = (cause as NodeJS.ErrnoException).code ?? "";
  if (["ENOSPC", "EDQUOT", "EFBIG"].includes(code)) {
    return new Fault("exhausted", "the host's disk is full", { reason: "HOST_DISK_FULL", cause });
  }
  return new Fault("internal", "the host cannot write its records", { reason: "HOST_STORAGE_FAILED", cause });
}
