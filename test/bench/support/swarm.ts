/** A control plane and thousands of simulated hosts that have joined it, as the benchmark of heartbeats and the simulation want them. */
import { mkdtemp, mkdir, rm, writeFile } from "node:fs/promises";
import { createHash } from "node:crypto";
import { tmpdir } from "node:os";
import path from "node:path";
import { NativeApi } from "#cp/local/native-api.ts";
import type { Json } from "#kernel/fault.ts";
import { AgentSwarm, type SwarmHost } from "#test/support/agent-swarm.ts";
import type { Environment } from "#cp/local/child.ts";
import { launchCloud, type TestCloud } from "#test/support/cloud.ts";
import { pickPort } from "#test/support/ports.ts";
import type { BenchContext } from "./benchmark.ts";
import { benchDatabase, type BenchDatabase } from "./database.ts";
import { timeInFlight } from "./in-flight.ts";

export interface SwarmCloudOptions {
  readonly hosts: readonly SimulatedHost[];
  readonly controlPlaneEnv: Environment;
  readonly pace: SwarmPace;
}

/** How often agents do what they do all the time. */
export interface SwarmPace {
  readonly leaseSeconds: number;
  readonly sampleSeconds: number;
  readonly keepAliveSeconds: number;
}

export type SimulatedHost = Pick<SwarmHost, "name" | "labels" | "capacity" | "canBeCut">;

export interface SwarmCloud {
  readonly cloud: TestCloud;
  readonly swarm: AgentSwarm;
  readonly database: BenchDatabase;
  /** How long it took until all had joined. */
  readonly joinedSeconds: number;
}

/** An agent that is one of thousands still holds 1.5 MiB: with more of them, collecting garbage stops all for long. */
const agentsPerProcess = 500;
const fewestProcesses = 2;
const joinsAtOnce = 32;
const joinLimitMs = 900_000;

/** Enrols the hosts one by one, each with a token of its own, and waits until all are connected. */
export async function swarmCloud(bench: BenchContext, options: SwarmCloudOptions): Promise<SwarmCloud> {
  const { hosts, pace } = options;
  const { leaseSeconds, sampleSeconds, keepAliveSeconds } = pace;
  const directory = await mkdtemp(path.join(tmpdir(), "sks-"));
  bench.teardown(() => rm(directory, { recursive: true, force: true }));
  const database = await benchDatabase(bench);
  const gatewayPort = await pickPort();
  const microDirectory = await makeTinyImage(directory);
  const cloud = await launchCloud({
    databaseUrl: database.url,
    agents: [],
    controlPlaneEnv: {
      SKERRY_GATEWAY_PORT: String(gatewayPort),
      SKERRY_MICRO_DIR: microDirectory,
      SKERRY_LOG_LEVEL: "warn",
      SKERRY_LEASE_SECONDS: String(leaseSeconds),
      SKERRY_GATEWAY_KEEPALIVE_MS: String(keepAliveSeconds * 1000),
      ...options.controlPlaneEnv,
    },
  });
  bench.teardown(() => cloud[Symbol.asyncDispose]());
  const onError = (name: string, message: string) => bench.say(`${name}: ${message}`);
  const processes = Math.max(fewestProcesses, Math.ceil(hosts.length / agentsPerProcess));
  const swarm = new AgentSwarm({ processes, onError });
  bench.teardown(() => swarm[Symbol.asyncDispose]());
  const api = new NativeApi(cloud.url, cloud.apiKey);
  const gateway = `127.0.0.1:${String(gatewayPort)}`;
  bench.say(`${String(hosts.length)} hosts join ...`);
  const started = performance.now();
  await timeInFlight(hosts.length, joinsAtOnce, async (index) => {
    const host = hosts[index];
    if (!host) return;
    const limit = AbortSignal.any([bench.signal, AbortSignal.timeout(joinLimitMs)]);
    const token = await api.createEnrolmentToken(host.name, limit);
    await swarm.join(
      {
        ...{ ...host, token, gateway, sampleSeconds, keepAliveSeconds },
        directory: path.join(directory, host.name),
      },
      limit,
    );
    if ((index + 1) % 500 === 0) bench.say(`${String(index + 1)} have joined`);
  });
  return { cloud, swarm, database, joinedSeconds: (performance.now() - started) / 1000 };
}

/** In the place of the image `micro`, a few bytes: fake machines start from anything, and each host fetches its own. */
async function makeTinyImage(directory: string): Promise<string> {
  const folder = path.join(directory, "image");
  await mkdir(folder);
  const files = await Promise.all(
    ["kernel", "initrd"].map(async (role) => {
      const content = Buffer.from(`the ${role} of a machine that only pretends`);
      await writeFile(path.join(folder, role), content);
      const sha256 = createHash("sha256").update(content).digest("hex");
      return { role, path: role, sha256, size_bytes: content.length };
    }),
  );
  const manifest: Json = { type: "kernel", architecture: "x86_64", command_line: "", files };
  await writeFile(path.join(folder, "manifest.json"), JSON.stringify(manifest));
  return folder;
}
