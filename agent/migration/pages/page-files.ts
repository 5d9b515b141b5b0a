/**
 * The image files of an instance as its guest sees them. Raw disks, kernels and initial ramdisks are that already; a
 * qcow2 is written out once, as a sparse raw file, by QEMU itself: its clusters may be compressed, and a page wants
 * one of sixteen blocks of many clusters in no order, so each would be unpacked again and again.
 */
import { mkdir, readdir, rename, rm, stat, statfs, utimes, open } from "node:fs/promises";
import { join } from "node:path";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { diskHeaderBytes, inspectDisk } from "#kernel/qcow2.ts";
import { exec } from "../../exec.ts";
import type { PageFile } from "../coding/tasks.ts";

export interface PageSource {
  readonly sha256: string;
  readonly path: string;
  readonly format: "raw" | "qcow2";
}

const convertTimeoutMs = 10 * 60_000;
/** Raw copies that are kept for the next move. */
const keptCopies = 4;
const maxVirtualBytes = 32n * 1024n ** 3n;
const keepFreeBytes = 1024 ** 3;

export class PageFiles {
  readonly #directory: string;
  readonly #log: Logger;
  readonly #writing = new Map<string, Promise<string>>();

  /** @param directory for raw copies, of which it may be cleared at any time */
  constructor({ directory, log }: { readonly directory: string; readonly log: Logger }) {
    this.#directory = directory;
    this.#log = log;
  }

  /** Makes the files ready. One that cannot be is left out: the page stage saves bytes and must not cost a move. */
  async prepare(sources: readonly PageSource[], signal: AbortSignal): Promise<PageFile[]> {
    const files = await Promise.all(
      sources.map(async ({ sha256, path, format }) => {
        try {
          const raw = format === "raw" ? path : await this.#rawCopy(sha256, path, signal);
          return { sha256, path: raw, bytes: (await stat(raw)).size };
        } catch (thrown) {
          this.#log.warn("move.page-source-left-out", { sha256, fault: toFault(thrown) });
          return undefined;
        }
      }),
    );
    return files.filter((file) => file !== undefined);
  }

  async #rawCopy(sha256: string, path: string, signal: AbortSignal): Promise<string> {
    const copy = join(this.#directory, `${sha256}.raw`);
    const now = new Date();
    const found = await utimes(copy, now, now).then(
      () => true,
      () => false, // absent, or not to be used: it is made anew
    );
    if (found) return copy;
    const writing = this.#writing.get(sha256) ?? this.#write(path, copy, signal);
    this.#writing.set(sha256, writing);
    return await writing.finally(() => this.#writing.delete(sha256));
  }

  async #write(path: string, copy: string, signal: AbortSignal): Promise<string> {
    const startedAt = performance.now();
    await mkdir(this.#directory, { recursive: true });
    await this.#checkRoom(path);
    const partial = `${copy}.new`;
    try {
      await exec("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", path, partial], {
        signal,
        timeoutMs: convertTimeoutMs,
      });
      await rename(partial, copy);
    } finally {
      await rm(partial, { force: true });
    }
    await this.#prune();
    this.#log.info("move.page-source-written", { ms: Math.round(performance.now() - startedAt) });
    return copy;
  }

  /** The header names no other file, or the image would not have been taken; it is checked again all the same. */
  async #checkRoom(path: string): Promise<void> {
    await using file = await open(path);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(diskHeaderBytes), 0, diskHeaderBytes, 0);
    const { virtualSizeBytes = 0n } = inspectDisk(buffer.subarray(0, bytesRead));
    const { bavail, bsize } = await statfs(this.#directory);
    const needed = Number(virtualSizeBytes) + keepFreeBytes;
    if (virtualSizeBytes > maxVirtualBytes || bavail * bsize < needed) {
      throw new Fault("exhausted", "there is no room for a raw copy of the image", { reason: "DISK_FULL" });
    }
  }

  /** Who has an old one open keeps it. */
  async #prune(): Promise<void> {
    const names = (await readdir(this.#directory)).filter((name) => name.endsWith(".raw"));
    const files = await Promise.all(
      names.map(async (name) => {
        const path = join(this.#directory, name);
        return { path, usedAt: (await stat(path)).mtimeMs };
      }),
    );
    files.sort((one, other) => other.usedAt - one.usedAt);
    for (const { path } of files.slice(keptCopies)) await rm(path, { force: true });
  }
}
