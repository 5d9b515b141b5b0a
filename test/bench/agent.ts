import { setTimeout as pause } from "node:timers/promises";
import { parseTopology } from "#cp/local/topology.ts";
import type { Skerry } from "#sdk/index.ts";
import type { TestAgent } from "#test/support/cloud.ts";
import type { BenchContext, Benchmark } from "./support/benchmark.ts";
import { benchCloud, roomyControlPlane, smallest } from "./support/cloud.ts";
import { InstanceWatch } from "./support/instance-watch.ts";
import { cpuSeconds, residentMib } from "./support/process-usage.ts";
import { median, round } from "./support/statistics.ts";

const fakeMachines = 50;
const idleSeconds = 90;
const loadedSeconds = 30;
/** Until what a start leaves behind has been done with, the first full report among it. */
const settleSeconds = 15;

export const benchmark: Benchmark = {
  summary:
    `Memory of an agent idle, with one real QEMU machine and with ${fakeMachines} fake ones, each the median ` +
    `over at least ${loadedSeconds} s, and the CPU time of an idle one over ${idleSeconds} s.`,

  async run(bench) {
    const { cloud, client } = await benchCloud(bench, {
      agents: listHosts(),
      controlPlaneEnv: roomyControlPlane,
    });
    await using watch = await InstanceWatch.open(client, bench.signal);
    const agentOf = (name: string) => cloud.agents.find(({ host }) => host.name === name);
    const [real, fake] = [agentOf("real"), agentOf("fake")];
    if (!real || !fake) throw new Error("an agent is missing");

    bench.say(`Two idle agents, one of each driver, for ${idleSeconds} s ...`);
    const [idle, idleFake] = await Promise.all([
      observe(real, idleSeconds, bench),
      observe(fake, idleSeconds, bench),
    ]);
    bench.say(describe("idle, driver qemu", idle));
    bench.say(describe("idle, driver fake", idleFake));

    await createMachines(client, watch, "real", 1);
    const one = await observe(real, loadedSeconds, bench);
    bench.say(describe("with 1 QEMU machine", one));
    await createMachines(client, watch, "fake", fakeMachines);
    const fifty = await observe(fake, loadedSeconds, bench);
    bench.say(describe(`with ${fakeMachines} fake machines`, fifty));

    return {
      rss_idle_mib: round(idle.rssMib),
      rss_1_mib: round(one.rssMib),
      rss_50_mib: round(fifty.rssMib),
      idle_cpu_s_per_min: round(idle.cpuSecondsPerMinute),
      cpu_50_s_per_min: round(fifty.cpuSecondsPerMinute),
    };
  },
};

/** One host of each driver; the region tells which. */
function listHosts() {
  const hosts = (["qemu", "fake"] as const).map((driver) => {
    const name = driver === "qemu" ? "real" : "fake";
    return { name, provider: "bench", region: name, driver, share: 1 };
  });
  return parseTopology(JSON.stringify({ hosts })).hosts;
}

interface Usage {
  readonly rssMib: number;
  readonly cpuSecondsPerMinute: number;
}

const describe = (what: string, { rssMib, cpuSecondsPerMinute }: Usage) =>
  `${what}: ${rssMib.toFixed(1)} MiB, ${cpuSecondsPerMinute.toFixed(2)} s of CPU per minute`;

async function createMachines(
  client: Skerry,
  watch: InstanceWatch,
  region: string,
  count: number,
): Promise<void> {
  const names = Array.from({ length: count }, (_, index) => `${region}-${index}`);
  await Promise.all(
    names.map(async (name) => {
      const running = watch.untilRunning(name);
      await client.instances.create({ name, spec: { ...smallest, region } });
      await running;
    }),
  );
}

/** What the agent uses over so many seconds, once it has settled. */
async function observe({ program }: TestAgent, seconds: number, { signal }: BenchContext): Promise<Usage> {
  await pause(settleSeconds * 1000, undefined, { signal });
  const { pid } = program;
  const before = await cpuSeconds(pid);
  const started = performance.now();
  const samples: number[] = [];
  for (let second = 0; second < seconds; second++) {
    await pause(1000, undefined, { signal });
    samples.push(await residentMib(pid));
  }
  const minutes = (performance.now() - started) / 60_000;
  return { rssMib: median(samples), cpuSecondsPerMinute: ((await cpuSeconds(pid)) - before) / minutes };
}
