/** Samples of many hosts are one statement, and one that fails takes nobody else's along. */
import t from "tap";
import { HostSamples, type HostSample } from "#cp/engine/host-samples.ts";
import type { Queryable } from "#cp/store/database.ts";

function databaseThat(fails: () => boolean) {
  const stored: HostSample[][] = [];
  const database: Queryable = {
    query: async (_text, [samples] = []) => {
      if (fails()) throw new Error("the database is away");
      stored.push(JSON.parse(String(samples)) as HostSample[]);
      return [];
    },
  };
  return { database, stored };
}

const sampleOf = (hostId: string): HostSample => ({
  hostId,
  at: "2026-01-01T00:00:00Z",
  sample: { cpu_usage: 0.5 },
});

t.test("what comes together is stored together", async (t) => {
  const { database, stored } = databaseThat(() => false);
  const samples = new HostSamples(database);
  await Promise.all(["host-a", "host-b", "host-c"].map((id) => samples.store(sampleOf(id))));
  t.strictSame(stored, [["host-a", "host-b", "host-c"].map(sampleOf)]);
  await samples.store(sampleOf("host-a"));
  t.strictSame(stored[1], [sampleOf("host-a")], "and nothing twice");
});

t.test("those whose samples are not stored hear of it, those that come later do not", async (t) => {
  let away = true;
  const { database, stored } = databaseThat(() => away);
  const samples = new HostSamples(database);
  const lost = [samples.store(sampleOf("host-a")), samples.store(sampleOf("host-b"))];
  for (const each of lost) await t.rejects(each, { message: "the database is away" });
  away = false;
  await samples.store(sampleOf("host-c"));
  t.strictSame(stored, [[sampleOf("host-c")]]);
});
