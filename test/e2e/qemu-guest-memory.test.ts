/** The memory of a QEMU that waits for its guest, written from outside. */
import { readFileSync, writeSync } from "node:fs";
import t from "tap";
import { openGuestMemory } from "#agent/drivers/qemu/migration/guest-memory.ts";
import { platformOf } from "#agent/drivers/hypervisor/platform.ts";
import { connectSocket, monitorSocketNames } from "#agent/drivers/hypervisor/files.ts";
import { MoveType } from "#gen/skerry/agent/v1/migration_pb.js";
import { emptyMemory, placeBlock } from "#agent/migration/guest-memory.ts";
import { QmpSession } from "#agent/qmp/session.ts";
import { deadline } from "#kernel/retry.ts";
import { makeWorld } from "#test/support/move-world.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const pageBytes = 4096;

await t.test("what is written is what the guest will find", async (t) => {
  await using world = await makeWorld("vm-memory", {});
  using signal = deadline(60_000, "the memory");
  const { destination } = world;
  const { id, spec } = destination.plan;
  const migration = destination.driver.liveMigration!;
  t.equal(await migration.openMemory!(id, signal), undefined, "there is no machine yet");
  await world.receive({}, signal);
  await using memory = await migration.openMemory!(id, signal);
  if (!memory) return t.fail("it cannot be written");
  t.match(memory.name, /\.ram$/);
  t.ok(memory.bytes >= Number(spec.memoryBytes));

  const monitor = await connectSocket(destination.directory, monitorSocketNames[1], signal);
  using session = await QmpSession.open(monitor, { signal });
  const { memoryStart } = platformOf(process.arch);
  const look = (at: number) => {
    const line = `xp /1xw 0x${(memoryStart + at).toString(16)}`;
    return session.execute("human-monitor-command", { "command-line": line }, { signal });
  };
  const [first, last] = [0x1000, Number(spec.memoryBytes) - pageBytes];
  for (const [at, fill] of [
    [first, 0x5a],
    [last, 0xa5],
  ] as const) {
    writeSync(memory.descriptor, Buffer.alloc(pageBytes, fill), 0, pageBytes, memory.position + at);
    const word = `0x${fill.toString(16).repeat(4)}`;
    t.match(await look(at), word);
    t.match(await look(at + pageBytes - 4), word);
  }
  t.match(await look(0x2000), "0x00000000", "what was not written is zero");

  await t.test("a QEMU that does not say where it is writes it itself", async (t) => {
    const pid = await destination.pid();
    const elsewhere = "Host virtual address for 0x0 (pc.ram) is 0x1000\r\n";
    for (const answer of ["No memory is mapped at address 0x0\r\n", elsewhere]) {
      const execute = (command: string) =>
        Promise.resolve(command === "human-monitor-command" ? answer : { "base-memory": 4096 });
      const odd = { pid, execute } as unknown as Parameters<typeof openGuestMemory>[0];
      await t.rejects(openGuestMemory(odd, platformOf(process.arch), signal), { code: "internal" });
    }
    const nobody = { pid: 2 ** 22 + 1 } as Parameters<typeof openGuestMemory>[0];
    await t.rejects(openGuestMemory(nobody, platformOf(process.arch), signal), { code: "denied" });
    const open = readFileSync(`/proc/self/fdinfo/${memory.descriptor}`, "utf8");
    t.match(open, "flags", "the one that is open stays so");
  });

  process.kill(await destination.pid(), "SIGKILL");
  await until(async () => (await world.stateOf(destination)) !== "paused");
  const block = Buffer.alloc(12 + pageBytes, 7);
  [1, 5, 1].forEach((word, index) => block.writeUInt32LE(word, index * 4));
  const place = async () => placeBlock(block, emptyMemory(memory));
  t.equal(await reasonOf(place), "MOVE_HYPERVISOR_GONE", "it is that process's and no other's");
});

await t.test("a guest that runs before its memory is here is given it by QEMU", async (t) => {
  await using world = await makeWorld("vm-memory", {});
  using signal = deadline(60_000, "the memory");
  const { driver, plan } = world.destination;
  await world.receive({ type: MoveType.POSTCOPY }, signal);
  t.equal(await driver.liveMigration!.openMemory!(plan.id, signal), undefined);
});
