/** A source whose memory's stream begins before the other host is there to take it. */
import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import t, { type Test } from "tap";
import type { HeldSocket } from "#agent/drivers/driver.ts";
import { MoveRole } from "#gen/skerry/agent/v1/migration_pb.js";
import { deadline } from "#kernel/retry.ts";
import { GuestShell } from "#test/support/guest-shell.ts";
import { makeWorld, type MoveWorld, type Side } from "#test/support/move-world.ts";
import { until } from "#test/support/until.ts";

const limitMs = 180_000;

/** Where a hypervisor may connect, and nobody listens to it. */
class Nobody implements AsyncDisposable {
  readonly #path: string;
  readonly #sockets = new Set<Socket>();
  readonly #server = createServer({ pauseOnConnect: true }, (socket) => {
    this.#sockets.add(socket.on("error", () => undefined));
  });
  /** What was done about the socket. */
  readonly done: string[] = [];

  private constructor(path: string) {
    this.#path = path;
  }

  static async listen(t: Test): Promise<Nobody> {
    const directory = await mkdtemp(join(tmpdir(), "skerry-nobody-"));
    t.teardown(() => rm(directory, { recursive: true }));
    const nobody = new Nobody(join(directory, "memory.sock"));
    nobody.#server.listen(nobody.#path);
    await until(async () => nobody.#server.listening);
    return nobody;
  }

  get isConnected(): boolean {
    return this.#sockets.size > 0;
  }

  get socket(): HeldSocket {
    const release = () => {
      this.done.push("released");
      return this.isConnected;
    };
    return { path: this.#path, release, close: () => void this.done.push("closed") };
  }

  /** Reads all that was said; how much it is that was said before the end. */
  async hear(): Promise<number> {
    let bytes = 0;
    for (const socket of this.#sockets) {
      const ended = once(socket, "close");
      socket.on("data", (data) => (bytes += data.length)).resume();
      await ended;
    }
    this.#sockets.clear();
    return bytes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
  }
}

const counting = "i=0; while true; do echo count-$i; i=$((i+1)); usleep 20000; done\n";

/** What QEMU has said to a socket that nobody reads is no more than the socket holds. */
const littleBytes = 4 * 1024 * 1024;

await t.test("what begins ahead goes on, ends, or is begun anew", async (t) => {
  await using world = await makeWorld("vm-ahead", {});
  using signal = deadline(limitMs, "the moves");
  const { source, destination } = world;
  await source.driver.ensure(source.plan, signal);
  const shell = await GuestShell.open(source.driver, source.plan, signal);
  const sum = await shell.run("dd if=/dev/urandom of=/data/before bs=1M count=4; sync; md5sum /data/before");
  shell.type(counting);
  await goesOn(source);
  const planOf = (migrationId: string) => world.withMove(source, MoveRole.SOURCE, { migrationId });

  await t.test("nobody came in time: it ends, and the guest does not notice", async (t) => {
    await using nobody = await Nobody.listen(t);
    const getReady = () =>
      source.driver.liveMigration!.getReady!(planOf("late"), () => nobody.socket, signal);
    await getReady();
    await until(async () => nobody.isConnected);
    await goesOn(source);
    t.same(nobody.done, [], "it waits for whoever sends");
    await getReady();
    t.same(nobody.done, ["closed"], "what it has said is of no use any more");
    t.ok((await nobody.hear()) < littleBytes, "it has ended");
    await getReady();
    await goesOn(source);
    t.notOk(nobody.isConnected, "it is tried once");
    t.equal((await source.driver.ensure(source.plan, signal)).state, "running");
  });

  await t.test("called off, nothing is left of it", async (t) => {
    await using nobody = await Nobody.listen(t);
    await source.driver.liveMigration!.getReady!(planOf("off"), () => nobody.socket, signal);
    await until(async () => nobody.isConnected);
    t.equal((await source.driver.ensure(source.plan, signal)).state, "running");
    t.ok((await nobody.hear()) < littleBytes, "it has ended");
    await goesOn(source);
  });

  await t.test("the agent is killed: the next one begins anew, and the guest moves", async (t) => {
    await using nobody = await Nobody.listen(t);
    await source.driver.liveMigration!.getReady!(planOf("killed"), () => nobody.socket, signal);
    await until(async () => nobody.isConnected);
    await source.succeed();
    await source.driver.recover([planOf("killed")], signal);
    const { phases } = await world.move({ migrationId: "killed" }, signal);
    t.equal(phases.at(-1), "handed-over");
    t.ok((await nobody.hear()) < littleBytes, "the first one has ended");
    await destination.driver.ensure(destination.plan, signal);
    await goesOn(destination);
    await source.driver.remove(world.id, source.directory, signal);
  });

  world.turn();
  await t.test("its disk comes first, then what had begun goes on", async (t) => {
    const change = { migrationId: "ahead" };
    await world.receive(change, signal);
    const released: string[] = [];
    await world.source.driver.liveMigration!.getReady!(
      world.withMove(world.source, MoveRole.SOURCE, change),
      (channel) => holdIn(world, channel, released),
      signal,
    );
    await goesOn(world.source);
    const { phases } = await world.send(change, signal, ({ phase }) => {
      if (phase === "disk-copy") t.same(released, [], "the memory waits for the disk");
      return true;
    });
    t.same(released, ["memory"], "once");
    t.equal(phases.at(-1), "handed-over");
    await world.destination.driver.ensure(world.destination.plan, signal);
    await goesOn(world.destination);
    const there = await GuestShell.resume(world.destination.driver, world.destination.plan, signal);
    t.equal(await there.run("md5sum /data/before"), sum.split("\n").at(-1), "what it had written is there");
    there.type(counting);
    await world.source.driver.remove(world.id, world.source.directory, signal);
  });

  world.turn();
  await t.test("what had begun has died: another is begun", async (t) => {
    const nobody = await Nobody.listen(t);
    const plan = world.withMove(world.source, MoveRole.SOURCE, { migrationId: "died" });
    await world.source.driver.liveMigration!.getReady!(plan, () => nobody.socket, signal);
    await until(async () => nobody.isConnected);
    await nobody[Symbol.asyncDispose]();
    await goesOn(world.source);
    const { phases } = await world.move({ migrationId: "died" }, signal);
    t.same(nobody.done, ["closed"], "nothing of it is carried");
    t.equal(phases.at(-1), "handed-over");
    await world.destination.driver.ensure(world.destination.plan, signal);
    await goesOn(world.destination);
  });
});

function holdIn(world: MoveWorld, channel: string, released: string[]): HeldSocket {
  world.held.add(channel);
  const release = () => {
    released.push(channel);
    return world.held.delete(channel);
  };
  return { path: world.socketOf(channel), release, close: () => void released.push("closed") };
}

async function goesOn(side: Side): Promise<void> {
  const counts = async () => (await side.console()).match(/count-\d+\r?\n/g)?.length ?? 0;
  const before = await counts();
  await until(async () => (await counts()) > before + 5);
}
