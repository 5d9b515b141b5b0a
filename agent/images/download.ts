/**
 * Fetches one file until its SHA-256 is right: resumes where it was cut off, also after a restart of the
 * agent; never lets a server stall it; starts over when what it resumed turns out to be of another file.
 */
import { createHash, type Hash } from "node:crypto";
import { open, statfs, type FileHandle } from "node:fs/promises";
import { dirname } from "node:path";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { backoffMs, sleep, type BackoffOptions } from "#kernel/retry.ts";
import { cancelled } from "#kernel/stall.ts";
import type { Progress } from "./shared-work.ts";
import type { Opened, Source } from "./sources.ts";

export interface DownloadLimits {
  readonly maxFileBytes: number;
  /** Free space that must remain on the host's disk. */
  readonly keepFreeBytes: number;
  /** Attempts in a row that come no further than those before, until it gives up. */
  readonly attempts: number;
  readonly backoff: BackoffOptions;
}

export interface DownloadRequest {
  readonly sha256: string;
  /** 0: not known. */
  readonly sizeBytes: number;
  readonly source: Source;
  /** What is there already is kept and continued. */
  readonly partial: string;
}

export interface DownloadContext {
  readonly limits: DownloadLimits;
  readonly log: Logger;
  readonly progress: Progress;
  readonly signal: AbortSignal;
}

/** Completes the partial file; when it returns, the digest has been checked and the bytes are on disk. */
export async function download(request: DownloadRequest, context: DownloadContext): Promise<void> {
  const { limits, log, signal } = context;
  if (request.sizeBytes > limits.maxFileBytes) throw tooLarge(limits.maxFileBytes);
  let fruitless = 0;
  let furthest = 0;
  for (;;) {
    const attempt = new Attempt(request, context);
    try {
      await attempt.run();
      return;
    } catch (thrown) {
      if (signal.aborted) throw cancelled(signal);
      const fault = toImageFault(thrown);
      fruitless = attempt.reached > furthest ? 1 : fruitless + 1;
      furthest = Math.max(furthest, attempt.reached);
      if (!fault.retryable || fruitless >= limits.attempts) throw fault;
      const waitMs = backoffMs(fruitless - 1, limits.backoff);
      log.warn("image.download_again", { sha256: request.sha256, fruitless, waitMs, fault });
      await sleep(waitMs, signal);
    }
  }
}

class Attempt {
  readonly #request: DownloadRequest;
  readonly #context: DownloadContext;
  /** How much of the file there was at its end. */
  reached = 0;

  constructor(request: DownloadRequest, context: DownloadContext) {
    this.#request = request;
    this.#context = context;
  }

  async run(): Promise<void> {
    const { partial, sizeBytes } = this.#request;
    await using file = await open(partial, "a+");
    let { size: at } = await file.stat();
    if (at > (sizeBytes || this.#context.limits.maxFileBytes)) {
      await file.truncate(0);
      at = 0;
    }
    const resumed = at > 0;
    let hash = await hashOf(file, at, this.#context.signal);
    if (at === 0 || at !== sizeBytes) {
      using opened = await this.#request.source.open(at, this.#context.signal);
      if (opened.offset !== at) {
        await file.truncate(0);
        hash = createHash("sha256");
      }
      await this.#receive(opened, file, hash);
    }
    await file.sync();
    if (hash.digest("hex") !== this.#request.sha256) await this.#discard(file, resumed);
  }

  async #receive(opened: Opened, file: FileHandle, hash: Hash): Promise<void> {
    const { sizeBytes, partial } = this.#request;
    const { limits, progress } = this.#context;
    const total = sizeBytes || opened.total || 0;
    const maximum = sizeBytes || limits.maxFileBytes;
    if (total > maximum) throw tooLarge(maximum);
    await requireSpace(dirname(partial), total - opened.offset + limits.keepFreeBytes);
    let at = opened.offset;
    progress(BigInt(at), BigInt(total));
    for await (const chunk of opened.chunks) {
      at += chunk.length;
      if (at > maximum) throw tooLarge(maximum);
      await file.appendFile(chunk);
      hash.update(chunk);
      this.reached = at;
      progress(BigInt(at), BigInt(Math.max(total, at)));
    }
    if (at < total) {
      throw new Fault("unavailable", "the image's server ended the transfer too early", {
        reason: "TRUNCATED",
      });
    }
  }

  /** Old bytes in front of new ones explain a wrong digest: then it is worth starting over, once. */
  async #discard(file: FileHandle, resumed: boolean): Promise<never> {
    await file.truncate(0);
    throw new Fault("invalid", "the content of the image does not have the SHA-256 that was promised", {
      reason: "DIGEST_MISMATCH",
      detail: { sha256: this.#request.sha256 },
      retryable: resumed,
    });
  }
}

async function hashOf(file: FileHandle, length: number, signal: AbortSignal): Promise<Hash> {
  const hash = createHash("sha256");
  const buffer = Buffer.alloc(1024 ** 2);
  for (let at = 0; at < length;) {
    signal.throwIfAborted();
    const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
    if (bytesRead === 0) break;
    hash.update(buffer.subarray(0, bytesRead));
    at += bytesRead;
  }
  return hash;
}

async function requireSpace(directory: string, neededBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  if (bavail * bsize < neededBytes) throw diskFull();
}

function diskFull(cause?: unknown): Fault {
  return new Fault("exhausted", "the host has no room for the image", { reason: "HOST_DISK_FULL", cause });
}

function tooLarge(maximum: number): Fault {
  return new Fault("invalid", `the image is larger than ${String(maximum)} bytes`, {
    reason: "IMAGE_TOO_LARGE",
    detail: { maximum },
  });
}

const complete = /^(IMAGE|HOST)_/;

/** Says that it is the image's server, connection or content that is at fault. */
function toImageFault(thrown: unknown): Fault {
  if ((thrown as NodeJS.ErrnoException).code === "ENOSPC") return diskFull(thrown);
  const fault = toFault(thrown);
  if (fault.code === "internal" || complete.test(fault.reason)) return fault;
  const { code, message, detail, retryable, cause } = fault;
  return new Fault(code, message, { reason: `IMAGE_${fault.reason}`, detail, retryable, cause });
}
