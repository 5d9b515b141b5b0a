import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { silentLogger } from "#kernel/log.ts";
import { MachineSchema, MachineState } from "#gen/skerry/agent/v1/machine_pb.js";
import { FakeDriver } from "#agent/drivers/fake/driver.ts";
import { deriveCpuBaseline } from "#agent/host/cpu-baseline.ts";
import { deriveCapacity, findHostFacts } from "#agent/host/facts.ts";
import { HostSampler, parseMeminfo, parseNetDev } from "#agent/host/host-metrics.ts";
import { readHostLabels } from "#agent/host/labels.ts";
import { lockFolder } from "#agent/host/lock.ts";
import { deriveUsage, MachineSampler } from "#agent/host/machine-metrics.ts";
import { findProbeGuest } from "#agent/host/probe-guest.ts";
import { readAgentSettings } from "#agent/settings.ts";
import type { DriverMetrics } from "#agent/drivers/driver.ts";
import { reasonOf } from "#test/support/reason-of.ts";

await t.test("the CPU baseline is the lowest that every CPU has", async (t) => {
  const v2 = "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3";
  const v3 = `${v2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave`;
  const v4 = `${v3} avx512f avx512bw avx512cd avx512dq avx512vl`;
  const rows: [string, string[], string][] = [
    ["x86_64", [], "x86-64-v1"],
    ["x86_64", ["fpu sse2"], "x86-64-v1"],
    ["x86_64", [v2], "x86-64-v2"],
    ["x86_64", [v3, v3], "x86-64-v3"],
    ["x86_64", [v4], "x86-64-v4"],
    ["x86_64", [v4, v2], "x86-64-v2"],
    ["x86_64", [v4.replace("sse4_1", "")], "x86-64-v1"],
    ["aarch64", [], "armv8"],
    ["riscv64", [], "riscv64"],
  ];
  for (const [architecture, flags, wanted] of rows) {
    const cpuinfo = flags.map((list) => `processor\t: 0\nflags\t\t: ${list}\n`).join("\n");
    t.equal(deriveCpuBaseline(architecture, cpuinfo), wanted, `${architecture} ${wanted}`);
  }
});

await t.test("capacity is the share of the host", async (t) => {
  const whole = { cpus: 3, memoryBytes: 3n * 2n ** 30n + 5n, diskBytes: 100n * 2n ** 30n };
  const half = deriveCapacity(whole, 0.5);
  t.equal(half.cpus, 1);
  t.equal(half.memoryBytes, 3n * 2n ** 29n);
  t.equal(half.diskBytes, 50n * 2n ** 30n);
  t.equal(deriveCapacity(whole, 0.01).cpus, 1, "never less than one CPU");
});

await t.test("facts of this very host", async (t) => {
  const driver = new FakeDriver({ log: silentLogger });
  const options = { driver, directory: t.testdir(), share: 0.5, agentVersion: "1.2.3" };
  const facts = await findHostFacts(options, new AbortController().signal);
  t.match(facts.architecture, /^(x86_64|aarch64)$/);
  t.match(facts.bootId, /^[0-9a-f-]{36}$/);
  t.equal(facts.driver, "fake");
  t.equal(facts.acceleration, "none");
  t.ok((facts.capacity?.memoryBytes ?? 0n) > 0n);
  t.not(facts.operatingSystem, "");
});

await t.test("the kernel's files", async (t) => {
  t.same(parseMeminfo("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   400 kB\n"), {
    total: 1_024_000n,
    available: 409_600n,
  });
  const line = (name: string, received: number, sent: number) =>
    `  ${name}: ${String(received)} 1 0 0 0 0 0 0 ${String(sent)} 1 0 0 0 0 0 0\n`;
  const text = `Inter-|   Receive\n face |bytes\n${line("lo", 9, 9)}${line("eth0", 5, 7)}${line("tap1", 9, 9)}${line("wlan0", 1, 2)}`;
  t.same(parseNetDev(text), { received: 6n, sent: 9n });
  const sample = await new HostSampler({ directory: t.testdir() }).sample();
  t.ok(sample.memoryUsedBytes > 0n && sample.memoryUsedBytes <= sample.memoryTotalBytes);
  t.ok(sample.diskUsedBytes > 0n && sample.diskUsedBytes <= sample.diskTotalBytes);
  t.ok(sample.cpuUsage >= 0 && sample.cpuUsage <= 1);
});

await t.test("CPU usage between two looks", async (t) => {
  const rows: [Parameters<typeof deriveUsage>, number][] = [
    [[undefined, { atMs: 1000, cpuSeconds: 5 }, 1], 0],
    [[{ atMs: 0, cpuSeconds: 0 }, { atMs: 1000, cpuSeconds: 0.5 }, 1], 0.5],
    [[{ atMs: 0, cpuSeconds: 0 }, { atMs: 1000, cpuSeconds: 0.5 }, 2], 0.25],
    [[{ atMs: 0, cpuSeconds: 0 }, { atMs: 1000, cpuSeconds: 9 }, 1], 1],
    [[{ atMs: 0, cpuSeconds: 50 }, { atMs: 1000, cpuSeconds: 0.1 }, 1], 0.1],
    [[{ atMs: 1000, cpuSeconds: 1 }, { atMs: 1000, cpuSeconds: 2 }, 1], 0],
  ];
  for (const [input, wanted] of rows) t.equal(deriveUsage(...input), wanted, JSON.stringify(input));

  let cpuSeconds = 1;
  let nowMs = 0;
  const counters = { memoryTotalBytes: 7n } as DriverMetrics;
  const sampler = new MachineSampler({
    driver: {
      metrics: async (id) => {
        if (id === "vm-broken") throw new Error("does not answer");
        return id === "vm-off" ? undefined : { ...counters, cpuSeconds };
      },
    },
    log: silentLogger,
    now: () => nowMs,
  });
  const machine = (id: string, state = MachineState.RUNNING) =>
    create(MachineSchema, { id, state, vcpus: 1 });
  const machines = [machine("vm-broken"), machine("vm-1"), machine("vm-2", MachineState.STOPPED)];
  t.equal((await sampler.sampleAll(machines)).length, 1, "one that does not answer costs the others nothing");
  nowMs = 1000;
  cpuSeconds = 1.25;
  t.equal((await sampler.sample(machine("vm-1"))).cpuUsage, 0.25);
  t.equal(
    (await sampler.sampleAll(machines))[0]?.cpuUsage,
    0.25,
    "asking in between does not end the period",
  );
  t.equal(await reasonOf(sampler.sample(machine("vm-off"))), "MACHINE_NOT_RUNNING");
});

await t.test("files that the operator writes", async (t) => {
  const directory = t.testdir();
  const path = join(directory, "labels.json");
  t.equal((await readHostLabels(undefined)).provider, "local");
  await writeFile(
    path,
    JSON.stringify({ provider: "lab", location: { latitude: 1.5 }, labels: { rack: "a" } }),
  );
  const labels = await readHostLabels(path);
  t.equal(labels.location?.latitude, 1.5);
  t.same(labels.labels, { rack: "a" });
  await writeFile(path, JSON.stringify({ provinder: "lab" }));
  t.equal(await reasonOf(readHostLabels(path)), "LABELS_INVALID");
  t.equal(await findProbeGuest(undefined), undefined);
  t.equal(await reasonOf(findProbeGuest(directory)), "PROBE_GUEST_INVALID");
  const files = [
    { role: "kernel", path: "vmlinuz" },
    { role: "initrd", path: "initrd.gz" },
  ];
  await writeFile(join(directory, "manifest.json"), JSON.stringify({ command_line: "quiet", files }));
  t.same(await findProbeGuest(directory), {
    type: "kernel",
    kernelPath: join(directory, "vmlinuz"),
    initrdPath: join(directory, "initrd.gz"),
    commandLine: "quiet",
  });
});

await t.test("one agent per folder", async (t) => {
  const directory = t.testdir();
  {
    await using _held = await lockFolder(directory);
    t.equal(await reasonOf(lockFolder(directory)), "AGENT_ALREADY_RUNNING");
  }
  await using _again = await lockFolder(directory);
});

await t.test("settings: every mistake at once", async (t) => {
  t.equal(readAgentSettings({}).driver, "qemu");
  t.same(readAgentSettings({ SKERRY_AGENT_GATEWAY: "a:1, b:2" }).gateways, ["a:1", "b:2"]);
  t.equal(await reasonOf(() => readAgentSettings({ SKERRY_AGENT_NONESUCH: "1" })), "SETTINGS_INVALID");
  try {
    readAgentSettings({ SKERRY_AGENT_SHARE: "2", SKERRY_AGENT_DRIVER: "xen", SKERRY_AGENT_LISTEN_PORT: "x" });
    t.fail("they were accepted");
  } catch (error) {
    t.equal((error as Error).message.split("\n").length, 4);
  }
});
