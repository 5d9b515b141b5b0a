/** The pool against a server that goes away at bad moments, and against others that want the same rows. */
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import t from "tap";
import { Database } from "#cp/store/database.ts";
import { Fault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";
import { withDatabase } from "#test/support/postgres.ts";
import { reasonOf } from "#test/support/reason-of.ts";

/** One message of PostgreSQL's protocol. */
function message(type: string, body: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.write(type, "latin1");
  head.writeUInt32BE(4 + body.length, 1);
  return Buffer.concat([head, body]);
}

t.test(
  "a connection that is lost in the moment in which it comes to be is a fault like any other",
  async (t) => {
    const server = createServer((socket) => {
      const welcome = [message("R", Buffer.alloc(4)), message("Z", Buffer.from("I"))];
      const farewell = message("E", Buffer.from("SFATAL\0C57P01\0Mterminating connection\0\0", "latin1"));
      socket.once("data", () => socket.end(Buffer.concat([...welcome, farewell])));
      socket.on("error", () => socket.destroy());
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    const url = `postgres://me@127.0.0.1:${String(port)}/none`;
    const database = new Database({ url, maxConnections: 1, log: silentLogger });
    t.equal(await reasonOf(database.query("select 1")), "DATABASE_UNAVAILABLE");
    t.equal(await reasonOf(database.transaction((tx) => tx.query("select 1"))), "DATABASE_UNAVAILABLE");
    const client = await database.dedicatedClient();
    await t.rejects(client.query("select 1"));
    await database[Symbol.asyncDispose]();
    server.close();
  },
);

t.test("a statement that lost against another is run again, a few times", async (t) => {
  const database = new Database({ url: await withDatabase(t), maxConnections: 1, log: silentLogger });
  t.teardown(() => database[Symbol.asyncDispose]());
  await database.query("create sequence attempt"); // what it counts is not rolled back
  await database.query(`create function lose(times int) returns bigint language plpgsql as $$
    declare n bigint := nextval('attempt');
    begin
      if n <= times then raise exception 'lost' using errcode = '40P01'; end if;
      return n;
    end $$`);
  t.strictSame(await database.query("select lose(2) as attempt"), [{ attempt: 3 }]);
  await t.rejects(database.query("select lose(1000)"), { code: "40P01" });
  t.strictSame(await database.query("select nextval('attempt') as attempt"), [{ attempt: 8 }]);
});

t.test("statements find their rows by an index, however few there are", async (t) => {
  await using database = new Database({ url: await withDatabase(t), maxConnections: 1, log: silentLogger });
  await database.query("analyze resource");
  const planOf = async (condition: string, value: unknown) => {
    const rows = await database.query<{ "QUERY PLAN": string }>(
      `explain select id from resource where ${condition}`,
      [value],
    );
    return rows.map((row) => row["QUERY PLAN"]).join("\n");
  };
  t.match(await planOf("id = $1", "vm-1"), /Index Cond: \(id = /);
  t.match(await planOf("refs @> jsonb_build_object('image', $1::text)", "img-1"), /resource_refs/);
  const settings = ["jit", "plan_cache_mode"].map((name) => database.query(`show ${name}`));
  t.strictSame((await Promise.all(settings)).flat(), [
    { jit: "off" },
    { plan_cache_mode: "force_generic_plan" },
  ]);
});

t.test("statements of one turn are answered together, and fail together", async (t) => {
  await using database = new Database({ url: await withDatabase(t), maxConnections: 1, log: silentLogger });
  const number = ["select $1::bigint as number, null::text as nothing", [7], "number"] as const;
  const late = ["select 'late' as word", [], "late"] as const;
  for (const round of ["columns are told", "columns are known"]) {
    const rows = await database.transaction((tx) => Promise.all([tx.query(...number), tx.query(...number)]));
    t.strictSame(rows, [[{ number: 7, nothing: null }], [{ number: 7, nothing: null }]], round);
  }
  const skipped = database.transaction(async (tx) => {
    tx.post("select 1 / 0", [], "fails");
    await t.rejects(tx.query(...late), { code: "22012" }, "it was in the same flight");
  });
  await t.rejects(skipped, { code: "22012" }, "whoever looks away commits nothing");
  t.strictSame(await database.query(...late), [{ word: "late" }], "what the server skipped is prepared anew");
  const explained = database.transaction(async (tx) => {
    tx.post(...late);
    await tx.query("select 1 / $1", [0], "divides").catch(() => {
      throw new Fault("conflict", "by nothing", { reason: "EXPLAINED" });
    });
  });
  t.equal(await reasonOf(explained), "EXPLAINED", "who waits for a statement says what its failure means");
  const hasty = database.transaction(async (tx) => {
    tx.post(...late);
    throw new Fault("conflict", "not today", { reason: "HASTY" });
  });
  t.equal(await reasonOf(hasty), "HASTY");
  const open = "select count(*) as open from pg_stat_activity where state like 'idle in transaction%'";
  t.strictSame(await database.query(`${open} and datname = current_database()`), [{ open: 0 }]);
  await t.rejects(database.query("select 'other' as word", [], "late"), /two statements are called late/);
  t.strictSame(await database.read(...number), [{ number: 7, nothing: null }]);
});
