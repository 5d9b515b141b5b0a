import { launchCloud, type TestCloud, type TestCloudOptions } from "#test/support/cloud.ts";
import { Skerry } from "#sdk/index.ts";
import type { BenchContext } from "./benchmark.ts";
import { benchDatabase, type BenchDatabase } from "./database.ts";

export interface BenchCloud {
  readonly cloud: TestCloud;
  readonly client: Skerry;
  readonly database: BenchDatabase;
}

/** Database, control plane and agents, each a process as in production, that go when the benchmark has ended. */
export async function benchCloud(
  bench: BenchContext,
  options: Omit<TestCloudOptions, "databaseUrl">,
): Promise<BenchCloud> {
  const database = await benchDatabase(bench);
  const cloud = await launchCloud({ ...options, databaseUrl: database.url });
  bench.teardown(() => cloud[Symbol.asyncDispose]());
  return { cloud, database, client: new Skerry({ url: cloud.url, apiKey: cloud.apiKey }) };
}

/** Room for many small machines on any computer, as far as promises go; fake ones need no more. */
export const roomyControlPlane = {
  SKERRY_OVERCOMMIT_CPUS: "100",
  SKERRY_OVERCOMMIT_MEMORY: "10",
  SKERRY_OVERCOMMIT_DISK: "100",
};

/** The smallest machine there is. */
export const smallest = { image: "micro", cpus: 1, memory_bytes: 64 * 2 ** 20, disk_bytes: 64 * 2 ** 20 };
