/**
 * Files that are either the old or the new content after a power cut, never a mixture: written beside,
 * flushed, renamed, and the folder flushed. Flushes of the folder are shared by all writes that wait
 * for one, so that many machines at once do not cost a flush each.
 */
import { constants } from "node:fs";
import { open, rename, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Fault } from "#kernel/fault.ts";

export class DurableFolder {
  readonly path: string;
  #running: Promise<void> = Promise.resolve();
  #waiting: Promise<void> | undefined;

  constructor(path: string) {
    this.path = path;
  }

  /** Replaces the file. One write per name at a time; `exhausted` when the disk is full. */
  async write(name: string, text: string): Promise<void> {
    const path = join(this.path, name);
    const beside = `${path}.new`;
    try {
      await writeFile(beside, text, { mode: 0o600, flush: true });
      await rename(beside, path);
      await this.#flush();
    } catch (cause) {
      await unlink(beside).catch(() => undefined); // it may not have come to be; the fault below is what counts
      throw storageFault(cause);
    }
  }

  /**
   * Writes over the file's beginning, in place, in one call: safe against a kill but not against a power cut, at
   * a fraction of the cost. What a longer text before it left behind stays: the reader must see where the text ends.
   */
  async overwrite(name: string, text: string): Promise<void> {
    try {
      await using file = await open(join(this.path, name), constants.O_WRONLY | constants.O_CREAT, 0o600);
      await file.write(text, 0);
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
