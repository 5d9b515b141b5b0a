/**
 * Finds out what a URL holds: digest, size and format. With a SHA-256 from the publisher the first bytes
 * are enough, since the hosts check the digest of what they fetch themselves; without, all of it is read
 * once, here.
 */
import { createHash } from "node:crypto";
import { egressGet, type Answer, type EgressPolicy } from "#kernel/egress.ts";
import { Fault } from "#kernel/fault.ts";
import { diskHeaderBytes, inspectDisk } from "#kernel/qcow2.ts";
import { findChecksum, type Checksum } from "./checksums.ts";
import type { ImageFile, ImageSpec } from "./image.resource.ts";

export type UrlSource = Extract<ImageSpec["source"], { type: "url" }>;

export interface ResolveOptions {
  readonly egress: EgressPolicy;
  readonly maxBytes: number;
  readonly signal: AbortSignal;
  readonly progress: (done: number, total: number) => void;
}

const maxChecksumListBytes = 4 * 1024 ** 2;

/** Resolves a URL to the file that hosts will fetch. Faults carry reasons that start with IMAGE_. */
export async function resolveImageUrl(source: UrlSource, options: ResolveOptions): Promise<ImageFile> {
  try {
    const promised = await promisedChecksum(source, options);
    const known = promised?.algorithm === "sha256" ? promised.hex : undefined;
    return known === undefined
      ? await readWhole(source, promised, options)
      : await readHead(source, known, options);
  } catch (thrown) {
    throw thrown instanceof Fault ? toImageFault(thrown) : thrown;
  }
}

async function promisedChecksum(source: UrlSource, options: ResolveOptions): Promise<Checksum | undefined> {
  if (source.sha256 !== null) return { algorithm: "sha256", hex: source.sha256 };
  if (source.checksums_url === null) return undefined;
  const { egress, signal } = options;
  using answer = await egressGet(source.checksums_url, egress, { signal, maxBytes: maxChecksumListBytes });
  requireOk(answer);
  const parts: Uint8Array[] = [];
  for await (const part of answer.body) parts.push(part);
  const name = decodeURIComponent(new URL(source.url).pathname.split("/").at(-1) ?? "");
  return findChecksum(Buffer.concat(parts).toString("utf8"), name);
}

async function readHead(source: UrlSource, sha256: string, options: ResolveOptions): Promise<ImageFile> {
  const { egress, signal, maxBytes } = options;
  const headers = { range: `bytes=0-${String(diskHeaderBytes - 1)}` };
  using answer = await egressGet(source.url, egress, { signal, maxBytes, headers });
  requireOk(answer);
  const sizeBytes = wholeSize(answer);
  requireSize(sizeBytes, maxBytes);
  let head = Buffer.alloc(0);
  for await (const part of answer.body) {
    head = Buffer.concat([head, part]);
    if (head.length >= diskHeaderBytes) break;
  }
  return toFile(source, sha256, sizeBytes, head);
}

async function readWhole(
  source: UrlSource,
  promised: Checksum | undefined,
  options: ResolveOptions,
): Promise<ImageFile> {
  const { egress, signal, maxBytes, progress } = options;
  using answer = await egressGet(source.url, egress, { signal, maxBytes });
  requireOk(answer);
  const total = wholeSize(answer);
  const sha256 = createHash("sha256");
  const check = promised && createHash(promised.algorithm);
  let head = Buffer.alloc(0);
  let done = 0;
  for await (const part of answer.body) {
    if (head.length < diskHeaderBytes) {
      head = Buffer.concat([head, part]);
      // Not worth reading on when it is no disk.
      if (head.length >= diskHeaderBytes) inspectDisk(head);
    }
    sha256.update(part);
    check?.update(part);
    done += part.length;
    progress(done, Math.max(total, done));
  }
  if (check && check.digest("hex") !== promised.hex) {
    throw new Fault("invalid", "the download does not have the checksum that its publisher promises", {
      reason: "IMAGE_DIGEST_MISMATCH",
    });
  }
  return toFile(source, sha256.digest("hex"), done, head);
}

function toFile(source: UrlSource, sha256: string, sizeBytes: number, head: Uint8Array): ImageFile {
  if (head.length === 0) throw new Fault("invalid", "the URL holds nothing", { reason: "IMAGE_EMPTY" });
  const { format } = inspectDisk(head);
  return { role: "disk", sha256, size_bytes: sizeBytes, url: source.url, format };
}

/** 0 when the server does not say. */
function wholeSize({ status, headers }: Answer): number {
  const length =
    status === 206 ? /\/(\d+)$/.exec(headers["content-range"] ?? "")?.[1] : headers["content-length"];
  return Number(length ?? 0);
}

function requireSize(sizeBytes: number, maximum: number): void {
  if (sizeBytes <= maximum) return;
  throw new Fault("invalid", `the image is larger than ${String(maximum)} bytes`, {
    reason: "IMAGE_TOO_LARGE",
    detail: { maximum },
  });
}

function requireOk({ status, url }: Answer): void {
  if (status === 200 || status === 206) return;
  const passing = status >= 500 || status === 429 || status === 408;
  throw new Fault("unavailable", `${url.host} answered ${String(status)} for ${url.pathname}`, {
    reason: "IMAGE_SERVER_REFUSED",
    detail: { status },
    retryable: passing,
  });
}

/** A server out of reach is often a cloud without internet; there is another way then. */
function toImageFault(fault: Fault): Fault {
  const { code, detail, retryable, cause } = fault;
  const reason = fault.reason.startsWith("IMAGE_") ? fault.reason : `IMAGE_${fault.reason}`;
  const hint = code === "unavailable" ? "; without internet, import a file with `skerry image import`" : "";
  return new Fault(code, `${fault.message}${hint}`, { reason, detail, retryable, cause });
}
