/** How connections that come and go are written down, with a database that is made up. */
import t from "tap";
import { Presence } from "#cp/engine/presence.ts";
import { createRegistry } from "#cp/resources/registry.ts";
import type { Database } from "#cp/store/database.ts";
import { silentLogger } from "#kernel/log.ts";
import { until } from "#test/support/until.ts";

/** What was written, as far as the database was there. */
class Records {
  readonly writes: { readonly name: string; readonly ids: readonly string[] }[] = [];
  failures = 0;
  asked = 0;
  readonly presence: Presence;

  constructor() {
    const query = async (_sql: string, values: readonly unknown[] = [], name = ""): Promise<unknown[]> => {
      if (name !== "presence_came" && name !== "presence_went") return [];
      this.asked++;
      if (this.failures-- > 0) throw new Error("the database is away");
      this.writes.push({ name, ids: values[0] as readonly string[] });
      return [];
    };
    const transaction = (work: (tx: { query: typeof query }) => Promise<unknown>) => work({ query });
    this.presence = new Presence({
      database: { query, transaction } as unknown as Database,
      registry: createRegistry([]),
      ...{ replicaId: "replica-1", replicaUrl: "http://127.0.0.1:1", log: silentLogger },
      connected: () => [],
      onChange: () => undefined,
    });
  }
}

await t.test("those that come together are written together, as they were left last", async (t) => {
  const { presence, writes } = new Records();
  for (const id of ["host-a", "host-b", "host-c"]) presence.connectionChanged(id, true);
  presence.connectionChanged("host-b", false);
  await until(() => writes.length === 2);
  t.same(writes, [
    { name: "presence_came", ids: ["host-a", "host-c"] },
    { name: "presence_went", ids: ["host-b"] },
  ]);
  for (let index = 0; index < 300; index++) presence.connectionChanged(`host-${String(index)}`, true);
  await until(() => writes.length === 4);
  t.same(
    writes.slice(2).map(({ ids }) => ids.length),
    [200, 100],
    "and not too many",
  );
  await presence[Symbol.asyncDispose]();
});

await t.test("what could not be written is written later, unless it has changed again", async (t) => {
  const records = new Records();
  const { presence, writes } = records;
  records.failures = 1;
  presence.connectionChanged("host-a", true);
  presence.connectionChanged("host-b", true);
  await until(() => records.asked === 1);
  presence.connectionChanged("host-a", false);
  await until(() => writes.length === 2);
  t.same(writes, [
    { name: "presence_came", ids: ["host-b"] },
    { name: "presence_went", ids: ["host-a"] },
  ]);
  records.failures = Infinity;
  presence.connectionChanged("host-a", true);
  await presence[Symbol.asyncDispose]();
  t.equal(writes.length, 2, "a replica that ends does not wait for its database");
});
