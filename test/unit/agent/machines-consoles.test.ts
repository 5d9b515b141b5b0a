/** Consoles of machines: several write to one, whoever follows it misses nothing, and its log does not grow for ever. */
import { join } from "node:path";
import t from "tap";
import { silentLogger } from "#kernel/log.ts";
import { Power } from "#gen/skerry/agent/v1/machine_pb.js";
import { ConsoleLog } from "#agent/machines/console-log.ts";
import { Consoles } from "#agent/machines/console.ts";
import { LoneHost } from "#test/support/lone-host.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

await t.test("consoles: shared, followed, rotated", async (t) => {
  await using host = await LoneHost.start();
  await host.ensure("vm-1", 1);
  const { directoryOf } = host.deps;
  const access = host.driver.console;
  const consoles = new Consoles({
    access,
    manager: host.manager,
    directoryOf,
    log: silentLogger,
    rotateBytes: 64,
  });
  const leave = new AbortController();
  const seen = { text: "", offset: 0 };
  const following = (async () => {
    for await (const chunk of consoles.follow("vm-1", 0, leave.signal)) {
      seen.text += Buffer.from(chunk.output).toString("latin1");
      seen.offset = chunk.offset;
    }
  })();
  using first = consoles.join("vm-1");
  using second = consoles.join("vm-1");
  await first.write(Buffer.from("one\r"));
  await second.write(Buffer.from("two\r"));
  await until(() => seen.text.includes("one") && seen.text.includes("two"));
  t.equal(seen.offset, seen.text.length);

  const log = new ConsoleLog(join(directoryOf("vm-1"), "console.log"), { rotateBytes: 8 });
  t.equal(await log.rotate(), true);
  t.equal(await log.rotate(), false, "a small log stays");
  await first.write(Buffer.from("three"));
  await until(() => seen.text.endsWith("three"));
  t.equal(seen.offset, seen.text.length, "offsets go on over a rotation");
  const whole = await consoles.read("vm-1", 0, 1000);
  t.equal(Buffer.from(whole.output).toString("latin1"), seen.text.slice(0, -5), "the older file first");
  t.equal(whole.endOffset, seen.text.length);
  t.equal(Buffer.from((await consoles.read("vm-1", -1, 5)).output).toString(), "three");
  t.equal(await log.rotate(), false);
  await first.write(Buffer.from("long enough"));
  await until(() => seen.text.endsWith("enough"));
  await log.rotate();
  const clamped = await consoles.read("vm-1", 0, 1000);
  t.equal(clamped.offset, clamped.endOffset, "what is gone is skipped");
  t.equal(Buffer.from(clamped.output).toString(), "threelong enough");

  await host.ensure("vm-1", 2, { power: Power.OFF });
  await first.write(Buffer.from("nobody hears this"));
  await host.ensure("vm-1", 3);
  await first.write(Buffer.from("back"));
  await until(() => seen.text.endsWith("back"));
  t.notMatch(seen.text, /nobody/);
  leave.abort();
  await following;
  t.equal(await reasonOf(() => consoles.join("vm-2")), "NOT_FOUND");
});
