import { spawn, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import { TransportWorld } from "#test/support/transport-world.ts";
import type { MoveStats } from "#agent/migration/stats.ts";
import type { BenchContext, Benchmark } from "./support/benchmark.ts";
import type { EndConfig } from "./support/data-path-end.ts";
import { round } from "./support/statistics.ts";

const gigabit = 125_000_000;
/** See agent/heap.ts. */
const asAgents = "--semi-space-growth-factor=1";
const cases = [
  { name: "none", codecs: [], bytesPerSecond: 0 },
  { name: "auto", codecs: [Codec.LZ4, Codec.ZSTD], bytesPerSecond: 0 },
  { name: "lz4_1gbit", codecs: [Codec.LZ4], bytesPerSecond: gigabit },
  { name: "zstd_1gbit", codecs: [Codec.ZSTD], bytesPerSecond: gigabit },
] as const;

export const benchmark: Benchmark = {
  summary:
    "The data path of a move alone, between two processes over loopback and mutual TLS: throughput, CPU seconds per " +
    "GB of what the hypervisor wrote at either end, and memory; for codec none, for the automatic choice without a " +
    "limit, and for lz4 and zstd at 1 Gbit/s.",

  async run(bench) {
    const megabytes = Number(bench.args[0] ?? 1000);
    const world = await TransportWorld.start();
    bench.teardown(() => world[Symbol.asyncDispose]());
    const [source, destination] = [await world.join("a"), await world.join("b")];
    const measures: Record<string, number> = {};
    for (const { name, codecs, bytesPerSecond } of cases) {
      const socket = join(world.directory, `${name}.sock`);
      const { credentials } = source;
      const shared = { codecs, bytesPerSecond, megabytes, socket, credentials, port: 0 };
      await start(bench, { ...shared, role: "reader" }).next();
      const sending = start(bench, { ...shared, role: "source" });
      const opened = await sending.next<{ port: number; socket: string }>();
      const pulling = { ...shared, port: opened.port, credentials: destination.credentials };
      const receiving = start(bench, { ...pulling, role: "destination" });
      start(bench, { ...shared, role: "writer", socket: opened.socket });
      const [sent, received] = await Promise.all([sending.next<Report>(), receiving.next<Report>()]);
      sending.stop();
      const gigabytes = sent.bytes.memoryRaw / 1e9;
      const seen = {
        mb_per_s: round(sent.bytes.memoryRaw / 1e6 / sent.seconds),
        ratio: round(sent.bytes.memoryWire / sent.bytes.memoryRaw),
        source_cpu_s_per_gb: round(sent.cpuSeconds / gigabytes),
        destination_cpu_s_per_gb: round(received.cpuSeconds / gigabytes),
        source_rss_mib: Math.round(sent.maxRssMib),
        destination_rss_mib: Math.round(received.maxRssMib),
      };
      bench.say(`${name}: ${JSON.stringify(seen)} ${sent.codecHistory.map(({ codec }) => codec).join(", ")}`);
      for (const [key, value] of Object.entries(seen)) measures[`${name}_${key}`] = value;
    }
    return measures;
  },
};

type Report = MoveStats & { readonly seconds: number; readonly maxRssMib: number };

function start(bench: BenchContext, config: EndConfig) {
  const program = fileURLToPath(new URL("./support/data-path-end.ts", import.meta.url));
  const child: ChildProcess = spawn(
    process.execPath,
    [...process.execArgv, asAgents, program, JSON.stringify(config)],
    {
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  bench.teardown(() => void child.kill("SIGKILL"));
  const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]();
  const next = async <T>(): Promise<T> => {
    const line = await lines.next();
    if (line.done) throw new Error("an end of the data path failed");
    return JSON.parse(line.value) as T;
  };
  return { next, stop: () => child.kill("SIGTERM") };
}
