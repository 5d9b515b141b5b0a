/** The embedded PostgreSQL as a process: it starts, keeps what it was given, and never outlives its parent. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, cp, lstat, mkdir, mkdtemp, readdir, rm, stat, unlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import pg from "pg";
import t from "tap";
import { EmbeddedPostgres } from "#cp/local/postgres.ts";
import { findPostgres, restoreLinks } from "#cp/local/postgres-binaries.ts";
import { choosePostgresUser, realNobody } from "#cp/local/postgres-user.ts";
import { nodeProgram, root } from "#cp/local/programs.ts";
import { silentLogger } from "#kernel/log.ts";
import { withDatabase, type Teardown } from "#test/support/postgres.ts";
import { findProcessesOf, killProcessesOf } from "#test/support/processes.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

function start(directory: string, options: { signal?: AbortSignal } = {}): Promise<EmbeddedPostgres> {
  return EmbeddedPostgres.start({
    directory,
    logFile: `${directory}.log`,
    log: silentLogger,
    signal: options.signal ?? new AbortController().signal,
    maxConnections: 20,
  });
}

/** A folder that goes after the servers in it have stopped: teardowns run last one first. */
async function makeDirectory(t: Teardown, ...parts: readonly string[]): Promise<string> {
  const top = await mkdtemp(path.join(tmpdir(), "skp-"));
  t.teardown(async () => {
    await killProcessesOf(top);
    await rm(top, { recursive: true, force: true });
  });
  const directory = path.join(top, ...parts, "pg");
  await mkdir(path.dirname(directory), { recursive: true });
  return directory;
}

async function query<R extends pg.QueryResultRow>(url: string, text: string): Promise<R[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<R>(text)).rows;
  } finally {
    await client.end();
  }
}

/** A folder that is a database already: making one takes seconds, a copy none. */
async function copyDatabase(t: Teardown, ...parts: readonly string[]): Promise<string> {
  const directory = await makeDirectory(t, ...parts);
  await cp(path.join(made, "data"), path.join(directory, "data"), { recursive: true });
  return directory;
}

const made = await makeDirectory(t);

await t.test("a folder becomes a database, and stays one", async (t) => {
  const directory = made;
  const stopping = new AbortController();
  const starting = start(directory, { signal: stopping.signal });
  const isBegun = (name: string) => name.startsWith("data.new");
  await until(async () => (await readdir(directory).catch((): string[] => [])).some(isBegun));
  stopping.abort();
  t.ok(await reasonOf(starting));
  t.notOk((await readdir(directory)).includes("data"), "an interrupted start leaves nothing half made");

  const first = await start(directory);
  t.notOk((await readdir(directory)).some(isBegun), "nor anything for good");
  t.teardown(() => first.stop());
  await query(first.url, "create table kept (id int); insert into kept values (7)");
  t.match(await query(first.url, "show listen_addresses"), [{ listen_addresses: "" }], "no network port");
  t.match(await query(first.url, "show fsync"), [{ fsync: "on" }]);
  t.equal((await stat(path.join(directory, "data"))).mode & 0o077, 0, "nobody else can read it");
  await first.stop();
  t.strictSame(first.child.exit, { code: 0, signal: null });
  t.strictSame(await findProcessesOf(directory), []);

  const second = await start(directory);
  t.strictSame(await query(second.url, "select id from kept"), [{ id: 7 }]);
  second.child.kill("SIGKILL");
  await second.child.exited;
  // The pid file is stale now and children of the killed server may still be there.
  const third = await start(directory);
  t.teardown(() => third.stop());
  t.strictSame(await query(third.url, "select id from kept"), [{ id: 7 }]);
  await third.stop();
  t.strictSame(third.child.exit, { code: 0, signal: null });
});

await t.test("a second server on the same folder is refused, and the first does not notice", async (t) => {
  const directory = await copyDatabase(t);
  const first = await start(directory);
  t.teardown(() => first.stop());
  const second = start(directory, { signal: AbortSignal.timeout(2_000) });
  t.ok(await reasonOf(second), "it gives up at its limit");
  t.strictSame(await query(first.url, "select 1 as one"), [{ one: 1 }]);
});

await t.test("a folder with a long path has its socket elsewhere", async (t) => {
  const directory = await copyDatabase(t, "long".repeat(30));
  const server = await start(directory);
  t.teardown(() => server.stop());
  t.strictSame(await query(server.url, "select 1 as one"), [{ one: 1 }]);
  t.notMatch(decodeURIComponent(server.url), "longlong");
});

await t.test("kill -9 of its parent ends the server", async (t) => {
  const directory = await copyDatabase(t);
  const [program, ...args] = [...nodeProgram("test/support/postgres-holder"), directory] as const;
  const holder = spawn(program, args, { cwd: root, stdio: ["ignore", "pipe", "inherit"] });
  t.teardown(() => holder.kill("SIGKILL"));
  const [url] = (await once(createInterface({ input: holder.stdout }), "line")) as [string];
  t.strictSame(await query(url, "select 1 as one"), [{ one: 1 }]);
  holder.kill("SIGKILL");
  await once(holder, "exit");
  await until(async () => (await findProcessesOf(directory)).length === 0);
  const again = await start(directory);
  t.strictSame(await query(again.url, "select 1 as one"), [{ one: 1 }]);
  await again.stop();
});

await t.test("root is somebody else, in one way or the other; a user is himself", async (t) => {
  const user = await choosePostgresUser(1000, 1000);
  t.strictSame([user.uid, user.gid, user.prefix], [1000, 1000, ["setpriv", "--pdeathsig", "INT"]]);
  const ownUid = process.getuid?.() ?? 0;
  const own = await choosePostgresUser(ownUid, process.getgid?.() ?? 0);
  t.equal(own.uid, 0 === ownUid ? 0 : ownUid, "a name space is preferred: files stay their owner's");
  t.match(realNobody.prefix.join(" "), /--reuid=65534.*--ambient-caps=\+dac_override.*--pdeathsig INT$/);
});

await t.test("a package without its links is made whole", async (t) => {
  const binaries = await findPostgres();
  const complete = path.resolve(binaries.postgres, "..", "..");
  const list = path.join(complete, "pg-symlinks.json");
  const isEmbedded = await stat(list).then(
    () => true,
    () => false,
  );
  t.ok(isEmbedded, "the embedded one is preferred to the distribution's");
  const copy = t.testdir({ native: { lib: {} } });
  await cp(list, path.join(copy, "native", "pg-symlinks.json"));
  for (let round = 0; round < 2; round++) {
    await restoreLinks(copy);
    const links = await readdir(path.join(copy, "native", "lib"));
    t.ok(links.includes("libpq.so.5"), "made, and made again without harm");
  }
  const link = path.join(copy, "native", "lib", "libpq.so.5");
  t.ok((await lstat(link)).isSymbolicLink());
  await unlink(link);
  if (process.getuid?.() !== 0) {
    await chmod(path.join(copy, "native", "lib"), 0o500);
    t.equal(await reasonOf(restoreLinks(copy)), "POSTGRES_INCOMPLETE");
    await chmod(path.join(copy, "native", "lib"), 0o700);
  }
});

await t.test("each test gets a migrated database of its own", async (t) => {
  const [one, two] = [await withDatabase(t), await withDatabase(t)];
  await query(one, "insert into tombstone (id, kind) values ('x', 'instance')");
  t.strictSame(await query(one, "select id from tombstone"), [{ id: "x" }]);
  t.strictSame(await query(two, "select id from tombstone"), []);
});
