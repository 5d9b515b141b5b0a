/**
 * The host's images. Files are kept by their content, fetched once however many machines want them, verified
 * before use, and used read-only by all machines together.
 */
import { createReadStream } from "node:fs";
import { open, rm } from "node:fs/promises";
import type { Image, ImageFile } from "#gen/skerry/agent/v1/machine_pb.js";
import { ImageType } from "#gen/skerry/agent/v1/machine_pb.js";
import type { EgressPolicy } from "#kernel/egress.ts";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { diskHeaderBytes, inspectDisk, type DiskFormat } from "#kernel/qcow2.ts";
import type { DiskFile, LocalImage } from "../drivers/driver.ts";
import { ContentStore, digestOf, type StoredFile } from "./content-store.ts";
import { download, type DownloadLimits } from "./download.ts";
import { SharedWork, type Progress } from "./shared-work.ts";
import { controlPlaneSource, webSource, type FetchFile, type Source } from "./sources.ts";

export interface ImageCacheOptions {
  readonly directory: string;
  readonly fetchFile: FetchFile;
  readonly egress: EgressPolicy;
  readonly limits: DownloadLimits;
  readonly log: Logger;
}

export const defaultDownloadLimits: DownloadLimits = {
  maxFileBytes: 64 * 1024 ** 3,
  keepFreeBytes: 512 * 1024 ** 2,
  attempts: 6,
  backoff: { baseMs: 500, capMs: 30_000 },
};

export class ImageCache {
  readonly #options: ImageCacheOptions;
  readonly #store: ContentStore;
  readonly #fetching = new SharedWork<StoredFile>();

  constructor(options: ImageCacheOptions) {
    this.#options = options;
    this.#store = new ContentStore(options.directory);
  }

  /**
   * Brings the image's files to this host, verified. Safe to repeat and to call at the same time for the
   * same image; a file that was damaged on disk is fetched again.
   */
  async ensure(image: Image, progress: Progress, signal: AbortSignal): Promise<LocalImage> {
    const done = new Map<string, bigint>();
    const totals = new Map(image.files.map((file) => [file.sha256, file.sizeBytes]));
    const files = new Map<string, StoredFile>();
    for (const file of image.files) {
      const report: Progress = (fileDone, fileTotal) => {
        done.set(file.sha256, fileDone);
        totals.set(file.sha256, fileTotal);
        progress(sum(done.values()), sum(totals.values()));
      };
      files.set(file.role, await this.#ensureFile(file, report, signal));
    }
    return toLocalImage(image, files);
  }

  /**
   * Takes in a disk that is written here, and finds out what it is called.
   * @param name of the disk among those being written
   * @param write writes it to the path
   */
  async create(
    name: string,
    write: (path: string) => Promise<void>,
    signal: AbortSignal,
  ): Promise<StoredFile> {
    const path = await this.#store.newPath(name);
    try {
      await write(path);
      await syncFile(path);
      const format = await judgeDisk(path, "");
      return await this.#store.adopt(await digestOf(path, signal), path, format);
    } finally {
      await rm(path, { force: true });
    }
  }

  /** Deletes what an agent before this one did not finish writing; before anything else is asked of the cache. */
  async tidy(): Promise<void> {
    await this.#store.dropUnfinished();
  }

  /** The bytes of a file that is here, from an offset on; throws `notFound`. */
  async *read(sha256: string, offset: number, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const file = await this.#store.find(sha256, signal);
    if (!file) throw new Fault("notFound", "the file is not on this host", { reason: "FILE_NOT_FOUND" });
    for await (const chunk of createReadStream(file.path, { start: offset, signal })) yield chunk as Buffer;
  }

  /** The files that are here, whole. */
  async list(): Promise<readonly StoredFile[]> {
    return await this.#store.list();
  }

  /** Reads a file whole; a damaged one is deleted and false is the answer. */
  async verify(sha256: string, signal: AbortSignal): Promise<boolean> {
    return await this.#store.verify(sha256, signal);
  }

  /** Deletes a file; absent is success. The caller knows that no machine uses it. */
  async remove(sha256: string): Promise<void> {
    await this.#store.remove(sha256);
  }

  async #ensureFile(file: ImageFile, progress: Progress, signal: AbortSignal): Promise<StoredFile> {
    const work = (report: Progress, stop: AbortSignal) => this.#findOrFetch(file, report, stop);
    return await this.#fetching.join(file.sha256, work, progress, signal);
  }

  async #findOrFetch(file: ImageFile, progress: Progress, signal: AbortSignal): Promise<StoredFile> {
    const found = await this.#store.find(file.sha256, signal);
    if (found) {
      progress(found.sizeBytes, found.sizeBytes);
      return found;
    }
    const { limits, log } = this.#options;
    const partial = await this.#store.partialPath(file.sha256);
    const started = performance.now();
    const { sha256, sizeBytes } = file;
    const discard = async (refusal: unknown) => {
      await rm(partial);
      throw refusal;
    };
    const request = { sha256, sizeBytes: Number(sizeBytes), source: this.#sourceOf(file), partial };
    await download(request, { limits, log, progress, signal });
    const format = file.role === "disk" ? await judgeDisk(partial, file.format).catch(discard) : "";
    const stored = await this.#store.adopt(sha256, partial, format);
    const ms = Math.round(performance.now() - started);
    log.info("image.fetched", { sha256, sizeBytes: stored.sizeBytes, format, ms });
    return stored;
  }

  #sourceOf({ url, sha256 }: ImageFile): Source {
    const { egress, fetchFile, limits } = this.#options;
    return url === ""
      ? controlPlaneSource(sha256, fetchFile, egress.stallMs)
      : webSource(url, egress, limits.maxFileBytes);
  }
}

/** The disk's format. A qcow2 that reaches outside itself is refused, whatever it was declared to be. */
async function judgeDisk(path: string, declared: string): Promise<DiskFormat> {
  const { format } = inspectDisk(await readHead(path));
  if (declared === "" || declared === format) return format;
  throw new Fault("invalid", `the image is declared as ${declared} but is ${format}`, {
    reason: "IMAGE_FORMAT_MISMATCH",
    detail: { declared, found: format },
  });
}

async function syncFile(path: string): Promise<void> {
  await using file = await open(path, "r+");
  await file.sync();
}

async function readHead(path: string): Promise<Uint8Array> {
  await using file = await open(path);
  const { buffer, bytesRead } = await file.read(Buffer.alloc(diskHeaderBytes), 0, diskHeaderBytes, 0);
  return buffer.subarray(0, bytesRead);
}

function toLocalImage(image: Image, files: ReadonlyMap<string, StoredFile>): LocalImage {
  const file = (role: string) => {
    const found = files.get(role);
    if (found) return found;
    throw new Fault("invalid", `the image has no ${role} file`, {
      reason: "IMAGE_INCOMPLETE",
      detail: { role },
    });
  };
  if (image.type === ImageType.KERNEL) {
    const { path: kernelPath } = file("kernel");
    const { path: initrdPath } = file("initrd");
    const disk = files.get("disk");
    const { commandLine } = image;
    return { type: "kernel", kernelPath, initrdPath, commandLine, ...(disk && { disk: toDiskFile(disk) }) };
  }
  if (image.type === ImageType.CONTAINER) {
    const { path, sha256 } = file("archive");
    return { type: "archive", path, sha256 };
  }
  return { type: "disk", ...toDiskFile(file("disk")) };
}

function toDiskFile({ path, format }: StoredFile): DiskFile {
  return { path, format: format === "qcow2" ? "qcow2" : "raw" };
}

function sum(values: Iterable<bigint>): bigint {
  let total = 0n;
  for (const value of values) total += value;
  return total;
}
