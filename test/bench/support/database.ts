import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { EmbeddedPostgres } from "#cp/local/postgres.ts";
import { silentLogger } from "#kernel/log.ts";
import type { BenchContext } from "./benchmark.ts";

export interface BenchDatabase {
  readonly url: string;
  /** The server; its sessions are its children. */
  readonly pid: number;
}

/** A database as `npm start` runs it, durable writes included, that goes when the benchmark has ended. */
export async function benchDatabase(bench: BenchContext): Promise<BenchDatabase> {
  const directory = await mkdtemp(path.join(tmpdir(), "skb-"));
  bench.teardown(() => rm(directory, { recursive: true, force: true }));
  const logFile = path.join(directory, "postgres.log");
  const server = await EmbeddedPostgres.start({
    directory,
    logFile,
    log: silentLogger,
    signal: bench.signal,
  });
  bench.teardown(() => server.stop());
  return { url: server.url, pid: server.child.pid };
}
