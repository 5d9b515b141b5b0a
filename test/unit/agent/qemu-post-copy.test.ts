import { tmpdir } from "node:os";
import t from "tap";
import { awaitMemoryAgain } from "#agent/drivers/qemu/migration/post-copy.ts";
import type { MigrationState } from "#agent/qmp/commands.ts";
import { Fault } from "#kernel/fault.ts";
import { reasonOf } from "#test/support/reason-of.ts";

await t.test("the rest of a guest's memory is waited for again", async (t) => {
  const refused = new Fault("internal", "refused", { reason: "QMP_COMMAND_FAILED" });
  /** A QEMU that sees its connection's end after so many looks, and what it is told meanwhile. */
  const waitWith = async (
    before: MigrationState,
    looks: number,
    after: MigrationState,
    takesPause = false,
  ) => {
    const told: string[] = [];
    const execute = async (command: string) => {
      if (command === "query-migrate") return { status: looks-- > 0 ? before : after };
      told.push(command);
      if (command === "migrate-pause" && !takesPause) throw refused;
      if (command === "migrate-pause") looks = 0;
      return {};
    };
    const monitor = { execute, eventCount: 0, eventAfter: async () => undefined };
    const signal = AbortSignal.timeout(60_000);
    const waiting = awaitMemoryAgain(monitor, tmpdir(), signal);
    return [await reasonOf(waiting), ...told];
  };
  const [pause, recover] = ["migrate-pause", "migrate-recover"];
  t.same(await waitWith("postcopy-active", 3, "postcopy-paused"), [undefined, recover]);
  t.same(await waitWith("postcopy-active", 1e9, "postcopy-paused", true), [undefined, pause, recover]);
  t.same(await waitWith("postcopy-active", 22, "postcopy-paused"), [undefined, pause, recover], "too late");
  t.same(await waitWith("postcopy-recover", 22, "postcopy-paused"), [undefined, pause, recover], "refused");
  t.same(await waitWith("active", 1e9, "failed"), ["MOVE_LOST"], "there is no guest yet that could wait");
});
