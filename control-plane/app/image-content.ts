/** Takes the upload that an image of source `upload` waits for. */
import type { Ctx } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import { diskHeaderBytes, inspectDisk } from "#kernel/qcow2.ts";
import { changeResource, lockResource } from "../engine/rows.ts";
import { enqueue } from "../engine/work.ts";
import {
  image,
  type Image,
  type ImageFile,
  type ImageSpec,
  type ImageStatus,
} from "../resources/image/image.resource.ts";
import type { BlobStore } from "../store/blobs.ts";
import type { Database } from "../store/database.ts";
import { authorise } from "./authorisation.ts";
import { readResource } from "./resource-queries.ts";

const tarHeaderBytes = 512;

export interface ImageContentOptions {
  readonly database: Database;
  readonly blobs: BlobStore;
  readonly maxBytes: number;
  /** Something was enqueued. */
  readonly onChange: () => void;
}

export class ImageContent {
  readonly #options: ImageContentOptions;

  constructor(options: ImageContentOptions) {
    this.#options = options;
  }

  /**
   * Stores the stream as the image's disk or archive. What is none, or a disk that reaches outside itself, is refused before
   * more than its first bytes are read. An interrupted upload leaves the image waiting for another.
   */
  async upload(ctx: Ctx, id: string, content: AsyncIterable<Uint8Array>): Promise<void> {
    const { database, blobs, maxBytes } = this.#options;
    authorise(ctx.principal, image.access.create, "uploading an image", "change");
    const found = (await readResource(database, ctx.principal, image, id)) as Image;
    if (found.project !== ctx.principal.project) {
      throw new Fault("denied", "the image belongs to another project", { reason: "OTHER_PROJECT" });
    }
    requireWaiting(found);
    const { stream, ...kept } = await inspected(content, found.desired.type);
    const { sha256, sizeBytes } = await blobs.writeStream(stream, maxBytes, ctx.signal);
    const file: ImageFile = { ...kept, sha256, size_bytes: sizeBytes, url: "" };
    await this.#store(ctx, id, file);
    this.#options.onChange();
  }

  async #store(ctx: Ctx, id: string, file: ImageFile): Promise<void> {
    await this.#options.database.transaction(async (tx) => {
      // Lock order: work before resource. Whoever waits for this image may go on.
      const waiting = await tx.query<{ id: string; kind: string }>(
        "select id, kind from resource where refs @> jsonb_build_object('image', $1::text) order by id",
        [id],
      );
      for (const { id: key, kind } of [{ id, kind: image.kind }, ...waiting])
        await enqueue(tx, { key, kind });
      const now = await lockResource(tx, id);
      if (!now) throw new Fault("notFound", "the image is gone");
      requireWaiting(now as Image);
      const { size_bytes } = file;
      const observed: ImageStatus = { files: [file], bytes_done: size_bytes, bytes_total: size_bytes };
      const change = { observed, observedGeneration: now.generation };
      await changeResource(tx, image, now, change, ctx.log);
    });
  }
}

function requireWaiting({ desired, observed, deletingAt }: Image): void {
  const refuse = (reason: string, message: string) => new Fault("conflict", message, { reason });
  if (deletingAt) throw refuse("DELETING", "the image is being deleted");
  if (desired.source.type !== "upload") {
    throw refuse("NOT_AN_UPLOAD", "the content of this image does not come from an upload");
  }
  if (desired.type === "kernel") throw refuse("NOT_A_DISK", "only disks and archives can be uploaded");
  if (observed && observed.files.length > 0) {
    throw refuse("HAS_CONTENT", "the image has its content already; create another one");
  }
}

/** Judges the first bytes; gives back the whole stream. */
async function inspected(
  content: AsyncIterable<Uint8Array>,
  type: ImageSpec["type"],
): Promise<Pick<ImageFile, "role" | "format"> & { readonly stream: AsyncIterable<Uint8Array> }> {
  const iterator = content[Symbol.asyncIterator]();
  let head = Buffer.alloc(0);
  while (head.length < Math.max(diskHeaderBytes, tarHeaderBytes)) {
    const next = await iterator.next();
    if (next.done) break;
    head = Buffer.concat([head, next.value]);
  }
  if (head.length === 0) throw new Fault("invalid", "the upload is empty", { reason: "IMAGE_EMPTY" });
  const stream = rejoin(head, iterator);
  if (type !== "container") return { role: "disk", format: inspectDisk(head).format, stream };
  if (isArchive(head)) return { role: "archive", format: "", stream };
  throw new Fault("invalid", "the upload is no OCI archive: it must be a tar file", {
    reason: "NOT_AN_ARCHIVE",
  });
}

/** Every tar file says so at this place, unless it is compressed. */
const isArchive = (head: Buffer) =>
  head.subarray(257, 262).toString() === "ustar" || head.readUInt16BE(0) === 0x1f8b;

async function* rejoin(
  head: Uint8Array,
  rest: AsyncIterator<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  yield head;
  for (let next = await rest.next(); !next.done; next = await rest.next()) yield next.value;
}
