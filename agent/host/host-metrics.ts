/**
 * How busy this host is. Read from the kernel's own files and not through a library: this runs every few
 * seconds on hosts that have better things to do, and must not spawn a program each time.
 */
import { readFile, statfs } from "node:fs/promises";
import os from "node:os";
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type HostMetrics, HostMetricsSchema } from "#gen/skerry/agent/v1/metrics_pb.js";

interface CpuTimes {
  readonly busy: number;
  readonly total: number;
}

export class HostSampler {
  readonly #directory: string;
  readonly #now: () => number;
  #last: CpuTimes;

  constructor({ directory, now = Date.now }: { readonly directory: string; readonly now?: () => number }) {
    this.#directory = directory;
    this.#now = now;
    this.#last = readCpuTimes();
  }

  /** A sample whose CPU usage covers the time since the last one. */
  async sample(): Promise<HostMetrics> {
    const before = this.#last;
    this.#last = readCpuTimes();
    return this.#read(before, this.#last);
  }

  /** The same without starting a new period, for those who ask in between. */
  peek(): Promise<HostMetrics> {
    return this.#read(this.#last, readCpuTimes());
  }

  async #read(before: CpuTimes, after: CpuTimes): Promise<HostMetrics> {
    const [meminfo, network, disk] = await Promise.all([
      readFile("/proc/meminfo", "utf8"),
      readFile("/proc/net/dev", "utf8"),
      statfs(this.#directory, { bigint: true }),
    ]);
    const memory = parseMeminfo(meminfo);
    const { received, sent } = parseNetDev(network);
    const total = after.total - before.total;
    return create(HostMetricsSchema, {
      at: timestampFromMs(this.#now()),
      cpuUsage: total > 0 ? clamp((after.busy - before.busy) / total) : 0,
      memoryUsedBytes: memory.total - memory.available,
      memoryTotalBytes: memory.total,
      diskUsedBytes: (disk.blocks - disk.bfree) * disk.bsize,
      diskTotalBytes: disk.blocks * disk.bsize,
      networkInBytes: received,
      networkOutBytes: sent,
    });
  }
}

/** Memory that programs could get without swapping counts as available, caches included. */
export function parseMeminfo(text: string): { readonly total: bigint; readonly available: bigint } {
  const bytes = (name: string) =>
    BigInt(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(text)?.[1] ?? 0) * 1024n;
  return { total: bytes("MemTotal"), available: bytes("MemAvailable") };
}

/** Sums the host's own interfaces; loopback and what machines are plugged into would be counted twice. */
export function parseNetDev(text: string): { readonly received: bigint; readonly sent: bigint } {
  let received = 0n;
  let sent = 0n;
  for (const [, name = "", counters = ""] of text.matchAll(/^\s*([^\s:]+):(.*)$/gm)) {
    if (/^(lo|tap|vnet|veth|virbr|docker|br-)/.test(name)) continue;
    const values = counters.trim().split(/\s+/);
    received += BigInt(values[0] ?? 0);
    sent += BigInt(values[8] ?? 0);
  }
  return { received, sent };
}

function readCpuTimes(): CpuTimes {
  let busy = 0;
  let total = 0;
  for (const { times } of os.cpus()) {
    const working = times.user + times.nice + times.sys + times.irq;
    busy += working;
    total += working + times.idle;
  }
  return { busy, total };
}

function clamp(part: number): number {
  return Math.min(1, Math.max(0, part));
}
