/**
 * Real PostgreSQL for tests: one server per run, a migrated template in it, a clone per test file. A
 * file that is run by itself starts a server of its own.
 */
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import pg from "pg";
import { EmbeddedPostgres } from "#cp/local/postgres.ts";
import { root } from "#cp/local/programs.ts";
import { Database } from "#cp/store/database.ts";
import { migrate } from "#cp/store/migrate.ts";
import { silentLogger } from "#kernel/log.ts";

/** Names the template's URL to the test files of a run. */
export const serverVariable = "SKERRY_TEST_DATABASE_URL";

const migrations = pathToFileURL(path.join(root, "control-plane/store/migrations/"));

/** What the helpers need of tap's `t`. */
export interface Teardown {
  teardown(work: () => Promise<void> | void): void;
}

/** Starts a server whose default database is the migrated template. Its data do not outlive a crash. */
export async function startTestServer(directory: string): Promise<EmbeddedPostgres> {
  const server = await EmbeddedPostgres.start({
    directory,
    logFile: path.join(directory, "postgres.log"),
    log: silentLogger,
    signal: new AbortController().signal,
    durable: false,
    maxConnections: 400,
  });
  try {
    await using database = new Database({ url: server.url, maxConnections: 1, log: silentLogger });
    await migrate(database, migrations, silentLogger);
    return server;
  } catch (error) {
    await server.stop();
    throw error;
  }
}

/** Gives the URL of a fresh, migrated database that is dropped when the test ends. */
export async function withDatabase(t: Teardown): Promise<string> {
  const template = process.env[serverVariable] ?? (await startOwnServer(t));
  const name = `test_${randomBytes(8).toString("hex")}`;
  await administer(template, `create database ${name} template ${databaseOf(template)}`);
  t.teardown(() => administer(template, `drop database if exists ${name} with (force)`));
  return withDatabaseName(template, name);
}

async function startOwnServer(t: Teardown): Promise<string> {
  const directory = await mkdtemp(path.join(tmpdir(), "skerry-pg-"));
  const server = await startTestServer(directory);
  process.env[serverVariable] = server.url;
  t.teardown(async () => {
    Reflect.deleteProperty(process.env, serverVariable);
    await server.stop();
    await rm(directory, { recursive: true, force: true });
  });
  return server.url;
}

async function administer(template: string, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: withDatabaseName(template, "postgres") });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}

function databaseOf(url: string): string {
  return new URL(url).pathname.slice(1);
}

function withDatabaseName(url: string, name: string): string {
  const changed = new URL(url);
  changed.pathname = `/${name}`;
  return changed.href;
}
