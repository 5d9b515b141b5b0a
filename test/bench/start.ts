import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { Child, type Environment } from "#cp/local/child.ts";
import { root } from "#cp/local/programs.ts";
import { pickPort } from "#test/support/ports.ts";
import { findProcessesOf, killProcessesOf } from "#test/support/processes.ts";
import { until } from "#test/support/until.ts";
import type { Benchmark } from "./support/benchmark.ts";
import { median } from "./support/statistics.ts";

const rounds = 5;
/** A first start may build the guest and must prove that it boots. */
const startLimitMs = 300_000;
const stopLimitMs = 60_000;

export const benchmark: Benchmark = {
  summary: `From \`npm start\` to a 200 of /readyz on a data folder that has been started before: median of ${rounds}.`,

  async run(bench) {
    const home = await mkdtemp(path.join(tmpdir(), "sks-"));
    bench.teardown(async () => {
      await killProcessesOf(home);
      await rm(home, { recursive: true, force: true });
    });
    const [port, gatewayPort] = [await pickPort(), await pickPort()];
    const env = {
      ...(process.env as Environment),
      SKERRY_HOME: home,
      PORT: String(port),
      SKERRY_GATEWAY_PORT: String(gatewayPort),
    };

    const startOnce = async () => {
      const started = performance.now();
      let complete = false;
      const child = await Child.spawn({
        name: "npm start",
        argv: ["npm", "start"],
        env,
        directory: root,
        logFile: path.join(home, "npm-start.log"),
        dieWith: "SIGTERM",
        onLine: (line) => (complete ||= line.startsWith("Skerry is ready")),
      });
      try {
        const ended = () => {
          if (child.exit) throw new Error(`npm start ended:\n${child.tail.join("\n")}`);
          return false;
        };
        await until(async () => (await isReady(port)) || ended(), startLimitMs);
        const readyMs = performance.now() - started;
        await until(() => complete || ended(), startLimitMs);
        return { readyMs, completeMs: performance.now() - started };
      } finally {
        // As Ctrl-C does: to the whole group, of which npm may be gone before what it started.
        if (!child.exit) process.kill(-child.pid, "SIGINT");
        await until(async () => (await findProcessesOf(home)).length === 0, stopLimitMs).catch(
          async (cause: unknown) => {
            const left = (await findProcessesOf(home)).map(({ commandLine }) => commandLine);
            throw new Error(`left behind:\n${left.join("\n")}`, { cause });
          },
        );
      }
    };

    bench.say("The first start ...");
    const first = await startOnce();
    bench.say(`it took ${first.readyMs.toFixed(0)} ms`);
    const results = [];
    for (let index = 1; index <= rounds; index++) {
      const result = await startOnce();
      bench.say(
        `start ${index + 1}: /readyz after ${result.readyMs.toFixed(0)} ms, hosts online after ${result.completeMs.toFixed(0)} ms`,
      );
      results.push(result);
    }
    return {
      ready_ms: Math.round(median(results.map(({ readyMs }) => readyMs))),
      online_ms: Math.round(median(results.map(({ completeMs }) => completeMs))),
    };
  },
};

async function isReady(port: number): Promise<boolean> {
  try {
    const response = await fetch(`http://127.0.0.1:${port}/readyz`, { signal: AbortSignal.timeout(2_000) });
    await response.arrayBuffer();
    return response.status === 200;
  } catch {
    return false; // nobody listens yet
  }
}
