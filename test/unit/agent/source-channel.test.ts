/** A channel of a move at its source: which call gets the hypervisor's connection. */
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import t, { type Test } from "tap";
import type { PullCall } from "#agent/migration/pull-call.ts";
import { SourceChannel, type SourceChannelDeps } from "#agent/migration/source-channel.ts";
import type { Open } from "#agent/migration/wire.ts";
import { Fault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";
import { until } from "#test/support/until.ts";

const callThat = (alive: boolean) =>
  ({ alive, listen: () => undefined, finish: () => undefined }) as unknown as PullCall;
const open = {} as Open;

/** A channel whose coding is as far as anything gets, with a hypervisor that has connected. */
async function openChannel(t: Test) {
  const directory = await mkdtemp(join(tmpdir(), "skerry-channel-"));
  t.teardown(() => rm(directory, { recursive: true }));
  const seen = { paired: 0 };
  const deps = {
    channel: "memory",
    socketPath: join(directory, "socket"),
    coding: async () => {
      seen.paired++;
      throw new Fault("unavailable", "far enough", { reason: "FAR_ENOUGH" });
    },
    onFault: () => undefined,
    log: silentLogger,
  } as unknown as SourceChannelDeps;
  const channel = await SourceChannel.open(deps);
  t.teardown(() => channel[Symbol.asyncDispose]());
  const connectHypervisor = async () => {
    const hypervisor = connect(deps.socketPath);
    t.teardown(() => hypervisor.destroy());
    await once(hypervisor, "connect");
    for (let turn = 0; turn < 3; turn++) await setImmediate(); // the listener's side of it
  };
  return { channel, seen, connectHypervisor };
}

await t.test("a call that is gone already leaves the hypervisor's connection to the next one", async (t) => {
  const { channel, seen, connectHypervisor } = await openChannel(t);
  await connectHypervisor();
  channel.pull(callThat(false), open);
  t.equal(seen.paired, 0);
  channel.pull(callThat(true), open);
  await until(() => seen.paired === 1);
});

await t.test("a channel that is held waits, whoever is there", async (t) => {
  const { channel, seen, connectHypervisor } = await openChannel(t);
  const held = channel.hold();
  t.equal(held.path, channel.socketPath);
  t.equal(held.release(), false, "nobody was there");
  const again = channel.hold();
  await connectHypervisor();
  channel.pull(callThat(true), open);
  t.equal(channel.isPulled, true);
  t.equal(seen.paired, 0, "nothing is carried");
  t.equal(again.release(), true, "somebody was");
  await until(() => seen.paired === 1);
});

await t.test("what a hypervisor has said that was sent away goes nowhere", async (t) => {
  const { channel, seen, connectHypervisor } = await openChannel(t);
  const held = channel.hold();
  await connectHypervisor();
  held.close();
  channel.pull(callThat(true), open);
  t.equal(seen.paired, 0);
  await connectHypervisor();
  await until(() => seen.paired === 1);
});
