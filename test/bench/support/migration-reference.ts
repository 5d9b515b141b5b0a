/**
 * A move as an operator with QEMU alone does it: the destination started, the disk mirrored over NBD, the memory by
 * plain TCP or by two compressing connections, all over the same link. Every step is sent as soon as the one before
 * it has ended, so no operator is quicker.
 */
import { mkdir, rm } from "node:fs/promises";
import path from "node:path";
import { machineFiles } from "#agent/drivers/hypervisor/files.ts";
import { Fault } from "#kernel/fault.ts";
import {
  HandMachine,
  makeBlankDisk,
  untilNextTick,
  untilReady,
  type GuestPattern,
} from "./migration-machine.ts";
import type { Monitor } from "./migration-monitor.ts";
import type { BenchHost, BenchNetwork } from "./migration-network.ts";
import type { Outcome } from "./migration-outcome.ts";

const memoryPort = 4444;
const diskPort = 4445;
/** QEMU holds itself to 128 MiB/s unless it is told otherwise. */
const maxBandwidth = 100e9;

export interface ReferenceOptions {
  readonly guest: GuestPattern;
  readonly network: BenchNetwork;
  /** How long the guest may take to boot and to do what it does before it is measured. */
  readonly readyLimitMs: number;
  readonly compression: "none" | "multifd-zstd";
  readonly maxDowntimeMs: number;
  /** Where its two machines have their folders. */
  readonly directory: string;
  /** When the guest is ready, and nothing is counted yet. */
  beforeMove(): Promise<void>;
  readonly signal: AbortSignal;
}

/**
 * Boots the guest at the source and moves it. It is not taken up again from a file: an emulator that has not worked yet
 * is quicker to begin, and memory that was in use just before is quicker to be had.
 */
export async function moveByHand(options: ReferenceOptions): Promise<Outcome> {
  const { guest, network, signal } = options;
  const directoryOf = (host: BenchHost) => path.join(options.directory, host.name);
  try {
    const directory = directoryOf(network.source);
    await mkdir(directory, { recursive: true });
    await makeBlankDisk(guest, machineFiles(directory).rootDisk);
    await using source = await HandMachine.start({ guest, host: network.source, directory, signal });
    await untilReady(directory, options.readyLimitMs, signal);
    await options.beforeMove();
    await untilNextTick(directory, signal);
    return await move(options, source, directoryOf(network.destination));
  } finally {
    await rm(options.directory, { recursive: true, force: true });
  }
}

async function move(options: ReferenceOptions, from: HandMachine, directory: string): Promise<Outcome> {
  const { guest, network, compression, signal } = options;
  const [bytesBefore, begunAt] = [await network.source.countLinkBytes(), Date.now()];
  await mkdir(directory, { recursive: true });
  await makeBlankDisk(guest, machineFiles(directory).rootDisk);
  await using to = await HandMachine.start({
    ...{ guest, signal, directory, host: network.destination },
    extra: ["-S", "-incoming", "defer"],
  });
  const [source, destination] = [from.monitor, to.monitor];
  const plan = migrationPlan(compression, options.maxDowntimeMs);
  await setMigration(destination, plan.capabilities, plan.incoming);
  await setMigration(source, plan.capabilities, { ...plan.incoming, ...plan.outgoing });
  const host = network.destination.linkAddress;
  const disk = { host, port: String(diskPort) };
  await destination.execute("nbd-server-start", { addr: { type: "inet", data: disk } });
  const exported = { type: "nbd", id: "export0", "node-name": "root", name: "root", writable: true };
  await destination.execute("block-export-add", exported);
  await destination.execute("migrate-incoming", { uri: `tcp:${host}:${String(memoryPort)}` });

  await source.execute("blockdev-add", {
    ...{ driver: "nbd", "node-name": "mirror-target", server: { type: "inet", ...disk }, export: "root" },
    ...{ discard: "unmap", "detect-zeroes": "unmap" },
  });
  await source.execute("blockdev-mirror", {
    ...{ "job-id": "mirror0", device: "root", target: "mirror-target", sync: "top" },
    ...{ "copy-mode": "background", "auto-dismiss": true },
  });
  await jobEvent(source, "BLOCK_JOB_READY", signal);
  await source.execute("migrate", { uri: `tcp:${host}:${String(memoryPort)}` });
  await migrationIs(source, "pre-switchover", signal);
  await source.execute("block-job-cancel", { device: "mirror0" });
  await jobEvent(source, "BLOCK_JOB_COMPLETED", signal);
  await source.execute("migrate-continue", { state: "pre-switchover" });
  await migrationIs(destination, "completed", signal);
  await destination.execute("nbd-server-stop");
  await destination.execute("cont");

  const resumed = await destination.event("RESUME", ({ name }) => name === "RESUME", signal);
  const stopped = source.events.findLast(({ name }) => name === "STOP");
  if (!stopped) throw new Fault("internal", "the guest never stopped at its source");
  const bytes = (await network.source.countLinkBytes()) - bytesBefore;
  await migrationIs(source, "completed", signal);
  const { downtime = 0 } = await source.execute<{ readonly downtime?: number }>("query-migrate");
  await untilNextTick(directory, signal);
  return {
    seconds: (resumed.atMs - begunAt) / 1000,
    bytes,
    downtimeMs: resumed.atMs - stopped.atMs,
    claimedDowntimeMs: downtime,
    cpuSeconds: 0,
    agentMib: 0,
  };
}

/** The best that is known of either way: see the capabilities' descriptions in QEMU's own reference. */
function migrationPlan(compression: ReferenceOptions["compression"], maxDowntimeMs: number) {
  const common = ["events", "return-path", "pause-before-switchover"];
  const outgoing = { "downtime-limit": maxDowntimeMs, "max-bandwidth": maxBandwidth };
  if (compression === "none") return { capabilities: common, incoming: {}, outgoing };
  return {
    capabilities: [...common, "multifd"],
    incoming: { "multifd-channels": 2, "multifd-compression": "zstd", "multifd-zstd-level": 1 },
    outgoing,
  };
}

async function setMigration(
  monitor: Monitor,
  capabilities: readonly string[],
  parameters: Readonly<Record<string, number | string>>,
): Promise<void> {
  await monitor.execute("migrate-set-capabilities", {
    capabilities: capabilities.map((capability) => ({ capability, state: true })),
  });
  await monitor.execute("migrate-set-parameters", { "max-bandwidth": maxBandwidth, ...parameters });
}

async function migrationIs(monitor: Monitor, status: string, signal: AbortSignal): Promise<void> {
  const ends = [status, "failed", "cancelled"];
  const { data } = await monitor.event(
    `migration ${status}`,
    (event) => event.name === "MIGRATION" && ends.includes(String(event.data["status"])),
    signal,
  );
  if (data["status"] === status) return;
  const why = await monitor.execute<object>("query-migrate");
  throw new Fault("internal", `the move by hand failed: ${JSON.stringify(why)}`);
}

/** A mirror that ended with an error has completed too, as QEMU words it. */
async function jobEvent(monitor: Monitor, name: string, signal: AbortSignal): Promise<void> {
  const names = [name, "BLOCK_JOB_COMPLETED"];
  const event = await monitor.event(name, (event) => names.includes(event.name), signal);
  if (event.name !== name || event.data["error"] !== undefined) {
    throw new Fault("internal", `the disk was not mirrored: ${JSON.stringify(event.data)}`);
  }
}
