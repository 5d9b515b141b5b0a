/**
 * Files by the SHA-256 of their content: `sha256/ab/<digest>`, read-only, with a stamp beside each of what
 * it looked like when it was verified. A file that no longer looks like its stamp was touched by somebody
 * and is verified again before it is used. What is still being fetched lies in `partial/`.
 */
import { createHash } from "node:crypto";
import { createReadStream, readFileSync, statSync, utimesSync } from "node:fs";
import { chmod, mkdir, open, readdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Fault } from "#kernel/fault.ts";

export interface StoredFile {
  readonly sha256: string;
  readonly path: string;
  readonly sizeBytes: bigint;
  /** qcow2, raw, or empty for what is no disk. */
  readonly format: string;
  readonly lastUsedAt: Date;
}

interface Stamp {
  readonly size: number;
  readonly modifiedMs: number;
  readonly format: string;
}

/** What is still being fetched is called by its digest, which does not begin like this. */
const newPrefix = "new-";
const digestPattern = /^[0-9a-f]{64}$/;

export class ContentStore {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Where a file is gathered until it is complete. Makes the folder. */
  async partialPath(sha256: string): Promise<string> {
    const directory = join(this.#directory, "partial");
    await mkdir(directory, { recursive: true });
    return join(directory, checkedDigest(sha256));
  }

  /** Where a file is written whose digest nobody knows yet; what an earlier attempt left there is deleted. */
  async newPath(name: string): Promise<string> {
    const path = join(this.#directory, "partial", `${newPrefix}${name}`);
    await mkdir(dirname(path), { recursive: true });
    await rm(path, { force: true });
    return path;
  }

  /** Deletes what was being written here when the agent was killed. */
  async dropUnfinished(): Promise<void> {
    const directory = join(this.#directory, "partial");
    const names = (await readdir(directory).catch(undefinedIfAbsent)) ?? [];
    for (const name of names)
      if (name.startsWith(newPrefix)) await rm(join(directory, name), { force: true });
  }

  /**
   * The file, if it is here and sound, and marks it as used. One that was touched since it was verified is
   * verified again; a damaged one is deleted.
   */
  async find(sha256: string, signal: AbortSignal): Promise<StoredFile | undefined> {
    const path = this.#path(sha256);
    // Each start of a machine asks; a thread would take several times as long to ask as these calls take.
    const stamp = readStamp(path);
    const now = statSync(path, { throwIfNoEntry: false });
    if (!stamp || !now) return undefined;
    if (now.size !== stamp.size || now.mtimeMs !== stamp.modifiedMs) {
      if ((await digestOf(path, signal)) !== sha256) {
        await this.remove(sha256);
        return undefined;
      }
      await writeStamp(path, stamp.format);
    }
    const lastUsedAt = new Date();
    utimesSync(stampPath(path), lastUsedAt, lastUsedAt);
    return { sha256, path, sizeBytes: BigInt(now.size), format: stamp.format, lastUsedAt };
  }

  /** Reads the whole file; a damaged one is deleted and false is the answer. */
  async verify(sha256: string, signal: AbortSignal): Promise<boolean> {
    const path = this.#path(sha256);
    if (!(await stat(path).catch(undefinedIfAbsent))) return false;
    if ((await digestOf(path, signal)) === sha256) return true;
    await this.remove(sha256);
    return false;
  }

  /** Takes in a complete file whose digest has been checked. */
  async adopt(sha256: string, partial: string, format: string): Promise<StoredFile> {
    const path = this.#path(sha256);
    await mkdir(dirname(path), { recursive: true });
    await chmod(partial, 0o444);
    await rename(partial, path);
    // Its stamp makes a file count: a crash before it leaves one that is fetched anew.
    await writeStamp(path, format);
    await syncDirectory(dirname(path));
    const { size } = await stat(path);
    return { sha256, path, sizeBytes: BigInt(size), format, lastUsedAt: new Date() };
  }

  async list(): Promise<StoredFile[]> {
    const root = join(this.#directory, "sha256");
    const entries = await readdir(root, { recursive: true }).catch(undefinedIfAbsent);
    const digests = (entries ?? []).map((entry) => entry.slice(entry.indexOf("/") + 1));
    const found = await Promise.all(
      digests.filter((name) => digestPattern.test(name)).map((d) => this.#describe(d)),
    );
    return found.filter((file) => file !== undefined);
  }

  /** Absent is success. */
  async remove(sha256: string): Promise<void> {
    const path = this.#path(sha256);
    await rm(stampPath(path), { force: true });
    await rm(path, { force: true });
  }

  async #describe(sha256: string): Promise<StoredFile | undefined> {
    const path = this.#path(sha256);
    const stamp = readStamp(path);
    const [file, used] = await Promise.all([
      stat(path).catch(undefinedIfAbsent),
      stat(stampPath(path)).catch(undefinedIfAbsent),
    ]);
    if (!stamp || !file || !used) return undefined;
    return { sha256, path, sizeBytes: BigInt(file.size), format: stamp.format, lastUsedAt: used.mtime };
  }

  #path(sha256: string): string {
    return join(this.#directory, "sha256", checkedDigest(sha256).slice(0, 2), sha256);
  }
}

/** The digest becomes part of a path, so it is checked wherever it comes from. */
function checkedDigest(sha256: string): string {
  if (digestPattern.test(sha256)) return sha256;
  throw new Fault("invalid", "an image file is named by its SHA-256 in lower-case hexadecimal", {
    reason: "IMAGE_DIGEST_INVALID",
  });
}

const stampPath = (path: string) => `${path}.json`;

function readStamp(path: string): Stamp | undefined {
  try {
    return JSON.parse(readFileSync(stampPath(path), "utf8")) as Stamp;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined; // torn by a crash: as if it were not there
    return undefinedIfAbsent(error as NodeJS.ErrnoException);
  }
}

async function writeStamp(path: string, format: string): Promise<void> {
  const { size, mtimeMs } = await stat(path);
  const stamp: Stamp = { size, modifiedMs: mtimeMs, format };
  await writeFile(`${stampPath(path)}.new`, JSON.stringify(stamp));
  await rename(`${stampPath(path)}.new`, stampPath(path));
}

async function syncDirectory(path: string): Promise<void> {
  await using handle = await open(path);
  await handle.sync();
}

/** The SHA-256 of a file, in hexadecimal. */
export async function digestOf(path: string, signal: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { signal })) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

function undefinedIfAbsent(error: NodeJS.ErrnoException): undefined {
  if (error.code === "ENOENT") return undefined;
  throw error;
}
