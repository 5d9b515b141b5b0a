import path from "node:path";
import { machineFiles } from "#agent/drivers/hypervisor/files.ts";
import { Fault } from "#kernel/fault.ts";
import type { Benchmark } from "./support/benchmark.ts";
import { benchCloud } from "./support/cloud.ts";
import { InstanceWatch } from "./support/instance-watch.ts";
import { copyMachine } from "./support/qemu-by-hand.ts";
import { firstSerialByte } from "./support/serial.ts";
import { median } from "./support/statistics.ts";

const rounds = 5;

export const benchmark: Benchmark = {
  summary:
    "From POST to the first byte on the guest's serial port, the image being cached, against QEMU started by " +
    `hand with the same arguments: ${rounds} rounds by turns, medians.`,

  async run(bench) {
    const { cloud, client } = await benchCloud(bench, { agents: 1, driver: "qemu" });
    await using watch = await InstanceWatch.open(client, bench.signal);
    const [agent] = cloud.agents;
    if (!agent) throw new Fault("internal", "there is no agent");

    const boot = async (name: string) => {
      const started = performance.now();
      const { id } = await client.instances.create({ name, spec: { image: "micro" } });
      const directory = path.join(agent.dataDirectory, "machines", id);
      await firstSerialByte(machineFiles(directory).consoleLog);
      const bootMs = performance.now() - started;
      const byHand = await copyMachine(directory, (work) => bench.teardown(work));
      const gone = watch.untilGone(id);
      await client.instances.delete(id);
      await gone;
      // One guest at a time: each has the computer for itself.
      return { bootMs, qemuMs: await byHand.time() };
    };

    bench.say("Booting once, so that the image is cached ...");
    await boot("warm-up");
    const results = [];
    for (let index = 1; index <= rounds; index++) {
      const result = await boot(`boot-${index}`);
      const { bootMs, qemuMs } = result;
      bench.say(`round ${index}: ${bootMs.toFixed(0)} ms, by hand ${qemuMs.toFixed(0)} ms`);
      results.push(result);
    }
    return {
      beyond_qemu_ms: Math.round(median(results.map(({ bootMs, qemuMs }) => bootMs - qemuMs))),
      boot_ms: Math.round(median(results.map(({ bootMs }) => bootMs))),
      qemu_ms: Math.round(median(results.map(({ qemuMs }) => qemuMs))),
    };
  },
};
