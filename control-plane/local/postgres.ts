/**
 * A real PostgreSQL in a folder, for a cloud on one machine: made on first use, reachable through a Unix
 * socket only, gone when this process is gone. What makes a second server on the same folder impossible
 * is PostgreSQL's own pid file, so that file is never removed from here.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { chmod, chown, lstat, mkdir, mkdtemp, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import pg from "pg";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { backoffMs, deadline, sleep } from "#kernel/retry.ts";
import { Child, describeExit } from "./child.ts";
import { findPostgres, type PostgresBinaries } from "./postgres-binaries.ts";
import { choosePostgresUser, type PostgresUser } from "./postgres-user.ts";

export interface EmbeddedPostgresOptions {
  /** Holds `data` and, when its path is short enough, the socket. */
  readonly directory: string;
  readonly logFile: string;
  readonly log: Logger;
  readonly signal: AbortSignal;
  /** Durable by default; tests trade that for speed. */
  readonly durable?: boolean;
  readonly maxConnections?: number;
}

const run = promisify(execFile);
const databaseName = "skerry";
const initLimitMs = 120_000;
const exitLimitMs = 10_000;
const startLimitMs = 60_000;
/** `sun_path` holds 108 bytes with the closing zero; PostgreSQL adds this name to the folder. */
const socketName = "/.s.PGSQL.5432.lock";
const longestSocketPath = 107;

export class EmbeddedPostgres implements AsyncDisposable {
  readonly url: string;
  readonly #child: Child;

  private constructor(child: Child, url: string) {
    this.#child = child;
    this.url = url;
  }

  /** Makes the folder into a database if it is none, starts the server and waits until it answers. */
  static async start(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
    const binaries = await findPostgres();
    const user = await choosePostgresUser(process.getuid?.() ?? 1, process.getgid?.() ?? 1);
    const dataDirectory = path.join(options.directory, "data");
    await mkdir(options.directory, { recursive: true, mode: 0o700 });
    if (!(await isDatabase(dataDirectory))) await initialise(binaries, user, dataDirectory, options);
    await giveTo(user, dataDirectory);
    const socketDirectory = await makeSocketDirectory(options.directory, user);
    const url = `postgresql://postgres@localhost/${databaseName}?host=${encodeURIComponent(socketDirectory)}`;
    using limit = deadline(startLimitMs, "starting PostgreSQL", options.signal);

    for (let attempt = 0; ; attempt++) {
      const child = await Child.spawn({
        name: "PostgreSQL",
        argv: [
          ...user.prefix,
          binaries.postgres,
          ...serverArguments(dataDirectory, socketDirectory, options),
        ],
        ownDeathSignal: true,
        dieWith: "SIGINT",
        env: { PATH: process.env["PATH"] ?? "", LC_ALL: "C.UTF-8", TZ: "UTC" },
        directory: options.directory,
        logFile: options.logFile,
      });
      try {
        await untilItAnswers(child, url, dataDirectory, limit);
        return new EmbeddedPostgres(child, url);
      } catch (error) {
        await child.stop(postgresStopSteps);
        // After a kill -9 the pid file may name a server that is still ending: its folder is free soon.
        const waitMs = backoffMs(attempt, { baseMs: 100, capMs: 2_000 });
        if (!isStillTaken(child) || limit.aborted) throw error;
        options.log.warn("postgres.folder_still_taken", { attempt, waitMs });
        await sleep(waitMs, limit);
      }
    }
  }

  get child(): Child {
    return this.#child;
  }

  /** Ends sessions and writes a checkpoint; at once, without checkpoint, if that takes too long. */
  async stop(): Promise<void> {
    await this.#child.stop(postgresStopSteps);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** Fast shutdown, then the immediate one. */
export const postgresStopSteps = [
  { signal: "SIGINT", waitMs: 20_000 },
  { signal: "SIGQUIT", waitMs: 5_000 },
] as const;

async function isDatabase(dataDirectory: string): Promise<boolean> {
  return stat(path.join(dataDirectory, "PG_VERSION")).then(
    () => true,
    () => false,
  );
}

/** Builds beside and renames, so that an interrupted start leaves nothing half made. */
async function initialise(
  binaries: PostgresBinaries,
  user: PostgresUser,
  dataDirectory: string,
  { durable = true, log, signal }: EmbeddedPostgresOptions,
): Promise<void> {
  const started = Date.now();
  await dropUnfinished(dataDirectory);
  // What is left of a start that was broken off may still be clearing up its own.
  const fresh = await mkdtemp(`${dataDirectory}.new-`);
  await chown(fresh, user.uid, user.gid);
  const asUser = async (program: string, args: readonly string[], input = "") => {
    const [first, ...rest] = [...user.prefix, program, ...args] as const;
    const done = run(first, rest, { signal, timeout: initLimitMs, cwd: fresh, env: { LC_ALL: "C.UTF-8" } });
    const exited = once(done.child, "exit", { signal: AbortSignal.timeout(initLimitMs + exitLimitMs) });
    done.child.stdin?.end(input);
    // An abort is told at once; until the program has really ended it still writes to the folder.
    await Promise.all([done.finally(() => exited), exited]);
  };
  try {
    const options = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8"];
    await asUser(binaries.initdb, ["-D", fresh, ...options, ...(durable ? [] : ["--no-sync"])]);
    await asUser(
      binaries.postgres,
      ["--single", "-D", fresh, "postgres"],
      `create database ${databaseName}\n`,
    );
  } catch (cause) {
    throw new Fault("unavailable", "PostgreSQL could not make its data folder", {
      reason: "POSTGRES_INIT_FAILED",
      cause,
    });
  }
  await rename(fresh, dataDirectory);
  log.info("postgres.initialised", { ms: Date.now() - started });
}

/** Deletes what starts that were broken off have left. */
async function dropUnfinished(dataDirectory: string): Promise<void> {
  const folder = path.dirname(dataDirectory);
  const prefix = `${path.basename(dataDirectory)}.new`;
  for (const name of await readdir(folder)) {
    if (name.startsWith(prefix))
      await rm(path.join(folder, name), { recursive: true, force: true, maxRetries: 5 });
  }
}

/** Only a change in how root becomes somebody else makes this walk the folder. */
async function giveTo(user: PostgresUser, directory: string): Promise<void> {
  if ((await stat(directory)).uid === user.uid) return;
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isSymbolicLink()) await chown(path.join(entry.parentPath, entry.name), user.uid, user.gid);
  }
  await chown(directory, user.uid, user.gid);
}

async function makeSocketDirectory(directory: string, user: PostgresUser): Promise<string> {
  const beside = path.join(directory, "run");
  const digest = createHash("sha256").update(directory).digest("hex").slice(0, 16);
  const short = path.join(tmpdir(), `skerry-${digest}`);
  const chosen = Buffer.byteLength(beside + socketName) <= longestSocketPath ? beside : short;
  await mkdir(chosen, { recursive: true, mode: 0o700 });
  // Below a folder that all may write to, somebody else may have been first.
  const found = await lstat(chosen);
  const isOurs = found.isDirectory() && [process.getuid?.(), user.uid].includes(found.uid);
  if (chosen === short && !isOurs) {
    throw new Fault("unavailable", "the folder for PostgreSQL's socket belongs to somebody else", {
      reason: "SOCKET_FOLDER_TAKEN",
      detail: { folder: chosen },
    });
  }
  await chmod(chosen, 0o700);
  await chown(chosen, user.uid, user.gid);
  return chosen;
}

function serverArguments(
  dataDirectory: string,
  socketDirectory: string,
  { durable = true, maxConnections = 200 }: EmbeddedPostgresOptions,
): string[] {
  const settings = {
    listen_addresses: "",
    unix_socket_directories: socketDirectory,
    unix_socket_permissions: "0700",
    max_connections: String(maxConnections),
    log_timezone: "UTC",
    timezone: "UTC",
    ...(durable ? {} : { fsync: "off", synchronous_commit: "off", full_page_writes: "off" }),
  };
  const flags = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  return ["-D", dataDirectory, ...flags];
}

async function untilItAnswers(
  child: Child,
  url: string,
  dataDirectory: string,
  signal: AbortSignal,
): Promise<void> {
  for (;;) {
    signal.throwIfAborted();
    if (child.exit) {
      throw new Fault("unavailable", `PostgreSQL ${describeExit(child.exit)}`, {
        reason: "POSTGRES_NOT_STARTED",
        detail: { last_lines: child.tail },
      });
    }
    // The answer must be this server's, not that of one which still holds the folder.
    if ((await holderOf(dataDirectory)) === child.pid && (await answers(url))) return;
    await sleep(20, signal);
  }
}

/** The pid in PostgreSQL's own lock. */
async function holderOf(dataDirectory: string): Promise<number | undefined> {
  const text = await readFile(path.join(dataDirectory, "postmaster.pid"), "utf8").catch(() => "");
  return Number(text.split("\n", 1)[0]) || undefined;
}

async function answers(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2_000 });
  client.on("error", () => undefined); // the failed connect below tells the same
  try {
    await client.connect();
    await client.end();
    return true;
  } catch {
    return false; // not there yet, or starting up: the caller asks again until its limit
  }
}

function isStillTaken(child: Child): boolean {
  return child.tail.some((line) => /postmaster\.pid|still in use/.test(line));
}
