/**
 * A move through the whole product: control plane, two agents and their QEMUs as processes of their own, asked for by
 * the native API; to the other host, and back through the control plane, since the way back is closed.
 */
import { execFile } from "node:child_process";
import { mkdtemp, open, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import t, { type Test } from "tap";
import { machineFiles } from "#agent/drivers/hypervisor/files.ts";
import { Skerry, type Migration } from "#sdk/index.ts";
import { startCloud, type TestAgent } from "#test/support/cloud.ts";
import { findProcessesOf } from "#test/support/processes.ts";
import { until } from "#test/support/until.ts";

const MiB = 1024 ** 2;
const run = promisify(execFile);
const bootLimitMs = 180_000;
const moveLimitMs = 120_000;
/** What both hosts give the guest's CPU under emulation is little: a switch-over is never this long. */
const mostDowntimeMs = 5_000;

/** Counts aloud and on its disk, and looks now and then, past its cache, whether the disk has what was written. */
const userData = `#!/bin/sh
dd if=/dev/urandom of=/data/random bs=1M count=4 2>/dev/null
sum=$(md5sum </data/random)
i=0
while :; do
  i=$((i + 1))
  echo "$i" >>/data/counts
  echo "count-$i"
  if [ $((i % 20)) = 0 ]; then
    sync
    echo 3 >/proc/sys/vm/drop_caches
    if [ "$(md5sum </data/random)" = "$sum" ] && [ "$(wc -l </data/counts)" = "$i" ]; then
      echo "disk-good-$i"
    else
      echo "disk-bad-$i"
    fi
  fi
  sleep 0.05
done
`;

/** Nobody listens there. */
const closedAddress = "127.0.0.3";

const cloud = await startCloud(t, {
  driver: "qemu",
  controlPlaneEnv: { SKERRY_OVERCOMMIT_CPUS: "100" },
  placeAgent: ({ name }, { argv, env }) => ({
    argv,
    env: name === "site-2" ? { ...env, SKERRY_AGENT_ADVERTISE: closedAddress } : env,
  }),
});
const { instances, migrations, hosts, images } = new Skerry({ url: cloud.url, apiKey: cloud.apiKey });
const [first, second] = cloud.agents as [TestAgent, TestAgent];

const spec = { image: "micro", memory_bytes: 128 * MiB, disk_bytes: 256 * MiB, user_data: userData };
const { provider, region } = first.host;
const { id } = await instances.create({ name: "mover", spec: { ...spec, provider, region } });
await instances.waitFor(id, { phases: ["running"], timeoutMs: bootLimitMs });

/** All that the guest has said at the host where it is. */
async function consoleText(): Promise<string> {
  const path = `/skerry/v1/instances/${id}/console/log?offset=0&limit=${String(MiB)}`;
  const { status, body } = await cloud.request<string>("GET", path);
  return status === 200 ? body : "";
}
const counts = (text: string) => [...text.matchAll(/count-(\d+)\r?\n/g)].map(([, count]) => Number(count));
const disks = (text: string) => [...text.matchAll(/disk-(\w+)-\d+\r?\n/g)].map(([, state]) => state);

const folderOf = ({ dataDirectory }: TestAgent) => join(dataDirectory, "machines", id);
const closedWays = async ({ program }: TestAgent) =>
  (await readFile(program.logFile, "utf8")).split("move.way-closed").length - 1;

async function hostOf({ host }: TestAgent) {
  for await (const one of hosts.list()) if (one.name === host.name) return one;
  throw new Error(`there is no host ${host.name}`);
}

async function qemusOf({ dataDirectory }: TestAgent): Promise<number> {
  const processes = await findProcessesOf(dataDirectory);
  return processes.filter(({ commandLine }) => /^\S*qemu-system/.test(commandLine)).length;
}

/** @param firstDisk what the first move sent of the disk; undefined: this is the first */
function checkReceipt(t: Test, { status }: Migration, firstDisk?: number): number {
  const receipt = status?.receipt;
  if (!receipt) throw new Error("the move has no receipt");
  const { downtime_ms, duration_ms, stopped_ms, resumed_ms, bytes, bytes_sent, bytes_total } = receipt;
  const parts = `${String(stopped_ms)} and ${String(resumed_ms)}`;
  t.comment(
    `downtime ${String(downtime_ms)} ms (${parts}) of ${String(duration_ms)}; ${JSON.stringify(bytes)}`,
  );
  t.ok(stopped_ms > 0 && resumed_ms > 0, "both hosts have measured their part");
  t.ok((downtime_ms ?? 0) >= stopped_ms + resumed_ms && (downtime_ms ?? Infinity) < mostDowntimeMs);
  t.ok(bytes.memory_raw > 16 * MiB && bytes.memory_raw < 512 * MiB, "the guest's memory");
  t.ok(bytes.memory_zero > 0 && bytes.memory_in_image > 0, "part of it named instead of sent");
  if (firstDisk === undefined)
    t.ok(bytes.disk_raw >= 4 * MiB && bytes.disk_raw < 256 * MiB, "what the guest has written to its disk");
  else {
    t.ok(bytes.disk_raw < firstDisk / 4 && bytes.disk_wire < firstDisk / 10, "what it has written since");
    t.ok(bytes.disk_kept >= 4 * MiB, "the rest was kept there");
  }
  t.ok(bytes.memory_wire + bytes.memory_in_image < bytes.memory_raw, "sent as less than it is");
  t.equal(bytes.memory_wire + bytes.disk_wire, bytes_sent);
  t.ok(bytes_total >= 128 * MiB && receipt.rounds > 1 && receipt.page_stage);
  t.hasProps(receipt.phase_ms, ["preparing", "disk-copy", "pre-copy", "switchover"]);
  const inPhases = Object.values(receipt.phase_ms).reduce((sum, ms) => sum + ms, 0);
  t.ok(inPhases > 0 && inPhases <= duration_ms, "the phases are parts of the whole");
  return bytes.disk_raw;
}

/** Moves it, and checks what is told of that and what can be seen. */
async function move(t: Test, from: TestAgent, to: TestAgent, firstDisk?: number): Promise<number> {
  // Open from now on: it can be read when the machine has gone from there.
  await using said = await open(machineFiles(folderOf(from)).consoleLog);
  const target = await hostOf(to);
  const asked = await migrations.create({ name: "move", spec: { instance: id, host: target.id } });
  const over = ["complete", "failed", "cancelled"] as const;
  const moved = await migrations.waitFor(asked.id, { phases: over, timeoutMs: moveLimitMs });
  t.match({ phase: moved?.phase, error: moved?.status?.error }, { phase: "complete", error: null });
  const sent = moved ? checkReceipt(t, moved, firstDisk) : 0;
  const now = await instances.waitFor(id, { phases: ["running"], timeoutMs: 60_000 });
  t.match(now?.status, { host_id: target.id, state: "running", restarts: 0, crashes: 0, migration: null });

  await until(async () => disks(await consoleText()).length > 1);
  const here = await consoleText();
  const numbers = counts((await said.readFile("utf8")) + here);
  t.strictSame(numbers, inOrder(numbers), "it has counted on, and its console goes with it");
  t.strictSame(new Set(disks(here)), new Set(["good"]), "its disk has what it wrote");
  await until(async () => (await qemusOf(from)) === 0);
  t.equal(await qemusOf(to), 1, "one QEMU, and it is there");
  const kept = async () => await readdir(folderOf(from));
  await until(async () => (await kept()).length === 1);
  t.strictSame(await kept(), [`kept-${asked.id}.qcow2`], "its disk is kept where it was, and nothing else");
  t.strictSame((await hostOf(from)).status?.unknown_machines, []);
  return sent;
}

/** From its first number on, each one once. */
const inOrder = (numbers: readonly number[]) => numbers.map((_, index) => (numbers[0] ?? 0) + index);

let sentFirst = 0;

await t.test("to another host", async (t) => {
  await until(async () => disks(await consoleText()).length > 0, bootLimitMs);
  sentFirst = await move(t, first, second);
  t.equal(await closedWays(second), 0, "the hosts have reached each other");
});

await t.test("and back, though the way there is closed", async (t) => {
  await move(t, second, first, sentFirst);
  t.ok((await closedWays(first)) > 0, "what could not go directly was passed on");
});

await t.test(
  "an image of a machine that runs starts another on the other host, also after its end",
  async (t) => {
    const folder = await mkdtemp(join(tmpdir(), "images-"));
    t.teardown(() => rm(folder, { recursive: true }));
    const [raw, disk, back] = ["raw", "qcow2", "back"].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    const mark = "written before the image was made";
    const content = Buffer.alloc(16 * MiB);
    content.write(mark, 4 * MiB);
    await writeFile(raw, content);
    await run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", raw, disk]);
    const { id: blank } = await images.create({ name: "blank", spec: { source: { type: "upload" } } });
    await images.upload(blank, await readFile(disk));

    const make = async (name: string, image: string, { host: { provider, region } }: TestAgent) => {
      const size = { memory_bytes: 64 * MiB, disk_bytes: 64 * MiB, stop_timeout_seconds: 0 };
      const made = await instances.create({ name, spec: { image, provider, region, ...size } });
      await instances.waitFor(made.id, { phases: ["running"], timeoutMs: bootLimitMs });
      return made.id;
    };
    const origin = await make("origin", "blank", first);
    const source = { type: "instance" as const, instance: "origin" };
    const golden = await images.create({ name: "golden", spec: { source } });
    const ready = await images.waitFor(golden.id, { phases: ["available", "failed"], timeoutMs: 60_000 });
    t.match(ready, { phase: "available", problem: null, spec: { min_disk_bytes: 64 * MiB } });
    await instances.delete(origin);
    const heir = await make("heir", "golden", second);
    const { rootDisk } = machineFiles(join(second.dataDirectory, "machines", heir));
    await run("qemu-img", ["convert", "-U", "-f", "qcow2", "-O", "raw", rootDisk, back]);
    t.equal((await readFile(back)).indexOf(mark), 4 * MiB, "what the disk held is there");
  },
);

await t.test("an image of a machine that starts from a kernel takes the kernel with it", async (t) => {
  const source = { type: "instance" as const, instance: id };
  const golden = await images.create({ name: "counter", spec: { source } });
  const ready = await images.waitFor(golden.id, { phases: ["available", "failed"], timeoutMs: 60_000 });
  t.match(ready, { phase: "available", problem: null, spec: { type: "kernel", command_line: /console/ } });
  await instances.delete(id);
  const { provider, region } = second.host;
  const user_data = "#!/bin/sh\necho counted-$(wc -l </data/counts)-$(wc -c </data/random)\n";
  const heirs = { ...spec, image: "counter", user_data, provider, region, stop_timeout_seconds: 0 };
  const heir = await instances.create({ name: "counter-2", spec: heirs });
  const said = `/skerry/v1/instances/${heir.id}/console/log`;
  const inherited = /counted-[1-9]\d+-4194304/;
  await until(async () => inherited.test((await cloud.request<string>("GET", said)).body), bootLimitMs);
});
