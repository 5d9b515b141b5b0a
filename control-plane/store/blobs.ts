/**
 * Content in the database, in chunks of 1 MiB, found by its SHA-256. A blob has a digest only once it is
 * complete, so nobody reads half of one; what a crash left behind is swept away.
 */
import { createHash } from "node:crypto";
import { Fault } from "#kernel/fault.ts";
import { newId } from "#kernel/id.ts";
import { violates, type Database } from "./database.ts";

export interface StoredBlob {
  readonly sha256: string;
  readonly sizeBytes: number;
}

const chunkBytes = 1024 ** 2;

export class BlobStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Stores a stream. The same content is kept once. More than `maxBytes` is `invalid` CONTENT_TOO_LARGE. */
  async writeStream(
    source: AsyncIterable<Uint8Array>,
    maxBytes: number,
    signal: AbortSignal,
  ): Promise<StoredBlob> {
    const id = newId("blob");
    await this.#database.query("insert into blob (id) values ($1)", [id]);
    try {
      const hash = createHash("sha256");
      let sizeBytes = 0;
      let position = 0;
      for await (const chunk of inChunks(source)) {
        signal.throwIfAborted();
        sizeBytes += chunk.length;
        if (sizeBytes > maxBytes) throw tooLarge(maxBytes);
        hash.update(chunk);
        const values = [id, position++, chunk];
        await this.#database.query(
          "insert into blob_chunk (blob_id, position, data) values ($1, $2, $3)",
          values,
          "blob_chunk_insert",
        );
      }
      return await this.#complete(id, { sha256: hash.digest("hex"), sizeBytes });
    } catch (error) {
      // Whatever stays is swept later; the first error is the one to tell.
      await this.#database.query("delete from blob where id = $1", [id]).catch(() => []);
      throw error;
    }
  }

  async #complete(id: string, blob: StoredBlob): Promise<StoredBlob> {
    try {
      await this.#database.query("update blob set sha256 = $2, size_bytes = $3 where id = $1", [
        id,
        blob.sha256,
        blob.sizeBytes,
      ]);
    } catch (error) {
      if (!violates(error, "blob_sha256_key")) throw error;
      await this.#database.query("delete from blob where id = $1", [id]);
      // Young again, so that the sweep leaves it until somebody refers to it.
      await this.#database.query("update blob set created_at = now() where sha256 = $1", [blob.sha256]);
    }
    return blob;
  }

  /** Whether there is such content, complete. */
  async has(sha256: string): Promise<boolean> {
    return (await this.#database.query("select 1 from blob where sha256 = $1", [sha256])).length > 0;
  }

  /** The content from a byte offset on; `notFound` when it is not here. */
  async *open(
    sha256: string,
    offset: number,
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const [blob] = await this.#database.query<{ id: string; size_bytes: number }>(
      "select id, size_bytes from blob where sha256 = $1",
      [sha256],
      "blob_find",
    );
    if (!blob) {
      throw new Fault("notFound", "there is no such content", {
        reason: "CONTENT_NOT_FOUND",
        detail: { sha256 },
      });
    }
    for (let at = offset; at < blob.size_bytes; at += chunkBytes - (at % chunkBytes)) {
      signal.throwIfAborted();
      const [chunk] = await this.#database.query<{ data: Buffer }>(
        "select data from blob_chunk where blob_id = $1 and position = $2",
        [blob.id, Math.floor(at / chunkBytes)],
        "blob_chunk_read",
      );
      if (!chunk) throw new Fault("unavailable", "the content is being removed", { reason: "CONTENT_GONE" });
      yield chunk.data.subarray(at % chunkBytes);
    }
  }

  /**
   * Deletes content that no image names, and uploads that never ended. Young ones stay: their image is
   * about to name them.
   * @returns how many were deleted
   */
  async removeUnreferenced(): Promise<number> {
    const removed = await this.#database.query(
      `delete from blob b where b.created_at < now() - case when b.sha256 is null then interval '1 day'
           else interval '1 hour' end
         and not exists (
           select 1 from resource r,
             jsonb_array_elements(coalesce(r.observed -> 'files', '[]') || coalesce(r.desired #> '{source,files}', '[]')) f
           where r.kind = 'image' and f ->> 'sha256' = b.sha256)
       returning 1`,
    );
    return removed.length;
  }
}

/** Cuts a stream into chunks of the stored size; only the last is smaller. */
async function* inChunks(source: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer, void, undefined> {
  let gathered: Uint8Array[] = [];
  let length = 0;
  for await (const part of source) {
    let rest = part;
    while (length + rest.length >= chunkBytes) {
      const missing = chunkBytes - length;
      yield Buffer.concat([...gathered, rest.subarray(0, missing)]);
      rest = rest.subarray(missing);
      gathered = [];
      length = 0;
    }
    gathered.push(rest);
    length += rest.length;
  }
  if (length > 0) yield Buffer.concat(gathered);
}

function tooLarge(maximum: number): Fault {
  return new Fault("invalid", `the content is larger than ${String(maximum)} bytes`, {
    reason: "CONTENT_TOO_LARGE",
    detail: { maximum },
  });
}
