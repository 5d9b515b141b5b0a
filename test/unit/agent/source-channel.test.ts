/** A channel of a move at its source: which call gets the hypervisor's connection. */
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import t from "tap";
import type { PullCall } from "#agent/migration/pull-call.ts";
import { SourceChannel, type SourceChannelDeps } from "#agent/migration/source-channel.ts";
import type { Open } from "#agent/migration/wire.ts";
import { Fault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";
import { until } from "#test/support/until.ts";

const callThat = (alive: boolean) =>
  ({ alive, listen: () => undefined, finish: () => undefined }) as unknown as PullCall;
const open = {} as Open;

await t.test("a call that is gone already leaves the hypervisor's connection to the next one", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "skerry-channel-"));
  t.teardown(() => rm(directory, { recursive: true }));
  let paired = 0;
  const deps = {
    channel: "memory",
    socketPath: join(directory, "socket"),
    coding: async () => {
      paired++;
      throw new Fault("unavailable", "far enough", { reason: "FAR_ENOUGH" });
    },
    onFault: () => undefined,
    log: silentLogger,
  } as unknown as SourceChannelDeps;
  await using channel = await SourceChannel.open(deps);
  const hypervisor = connect(deps.socketPath);
  t.teardown(() => hypervisor.destroy());
  await once(hypervisor, "connect");
  for (let turn = 0; turn < 3; turn++) await setImmediate(); // the listener's side of it
  channel.pull(callThat(false), open);
  t.equal(paired, 0);
  channel.pull(callThat(true), open);
  await until(() => paired === 1);
});
