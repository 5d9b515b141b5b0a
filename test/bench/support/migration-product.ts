/** A move as a customer of the product orders it, through the public API. */
import { monitorSocketNames } from "#agent/drivers/qemu/files.ts";
import { Fault } from "#kernel/fault.ts";
import { deadline, sleep } from "#kernel/retry.ts";
import { createGuest, deleteGuest, machineDirectory, type MigrationCloud } from "./migration-cloud.ts";
import type { BenchGuest } from "./migration-guests.ts";
import { untilNextTick, untilReady } from "./migration-machine.ts";
import { Monitor } from "./migration-monitor.ts";
import type { Outcome } from "./migration-outcome.ts";
import { cpuSeconds, residentMib } from "./process-usage.ts";

const moveLimitMs = 600_000;
const askEveryMs = 200;
/** The migration itself must not go the way of the commands. */
const mostControlBytes = 4e6;

/** What the documented API tells of a migration, as far as it is read here. */
interface MigrationView {
  readonly status: string;
  readonly phase: string;
  readonly downtime?: string | null;
  readonly error?: unknown;
}

export interface ProductMoveOptions {
  readonly migrationCloud: MigrationCloud;
  readonly guest: BenchGuest;
  readonly name: string;
  readonly maxDowntimeMs: number;
  readonly signal: AbortSignal;
}

export interface ProductMove extends Outcome {
  /** All that the API tells of it when it is over. */
  readonly told: object;
}

/** Makes a new guest at the source, has it moved, sees it live at the destination, and deletes it. */
export async function moveByProduct(options: ProductMoveOptions): Promise<ProductMove> {
  const { migrationCloud, guest, name, signal } = options;
  const { client, source } = migrationCloud;
  const id = await createGuest(client, source, guest, name, signal);
  try {
    const directory = machineDirectory(source, id);
    await untilReady(directory, guest.readyLimitMs, signal);
    await untilNextTick(directory, signal);
    return await move(id, options);
  } finally {
    await deleteGuest(client, id, signal);
  }
}

async function move(id: string, options: ProductMoveOptions): Promise<ProductMove> {
  const { migrationCloud, maxDowntimeMs } = options;
  const { source, destination, cloud } = migrationCloud;
  using limit = deadline(moveLimitMs, "the move", options.signal);
  const directory = machineDirectory(destination, id);
  using leaving = await Monitor.open(machineDirectory(source, id), monitorSocketNames[1], limit);
  const pids = [source.agent.program.pid, destination.agent.program.pid];
  const usage = async () => ({
    link: await source.host.countLinkBytes(),
    control: (await source.host.countControlBytes()) + (await destination.host.countControlBytes()),
    cpu: (await Promise.all(pids.map(cpuSeconds))).reduce((sum, each) => sum + each, 0),
  });
  const before = await usage();
  const begunAt = Date.now();
  const { body, status } = await cloud.request<{ readonly migration_id?: string }>(
    "POST",
    `/v1/vms/${id}/migrate`,
    {
      target_provider: destination.target.provider,
      target_region: destination.target.region,
      max_downtime: `${String(maxDowntimeMs)}ms`,
    },
  );
  if (body.migration_id === undefined) {
    throw new Fault("internal", `the API answered ${String(status)}: ${JSON.stringify(body)}`);
  }
  const over = new AbortController();
  const agentMib = largestMemory(pids, AbortSignal.any([over.signal, limit]));
  using arriving = await openWhenThere(directory, limit);
  const told = await untilOver(options, body.migration_id, limit);
  over.abort();
  const after = await usage();

  const stopped = leaving.events.findLast((event) => event.name === "STOP");
  const resumed = await arriving.event("RESUME", (event) => event.name === "RESUME", limit);
  if (!stopped) throw new Fault("internal", "the guest never stopped at its source");
  if (after.control - before.control > mostControlBytes) {
    throw new Fault("internal", "the migration's bytes went through the control plane");
  }
  await untilNextTick(directory, limit);
  return {
    seconds: (resumed.atMs - begunAt) / 1000,
    bytes: after.link - before.link,
    downtimeMs: resumed.atMs - stopped.atMs,
    claimedDowntimeMs: Number.parseFloat(told.downtime ?? "NaN"),
    cpuSeconds: after.cpu - before.cpu,
    agentMib: await agentMib,
    told,
  };
}

async function untilOver(
  { migrationCloud }: ProductMoveOptions,
  migrationId: string,
  signal: AbortSignal,
): Promise<MigrationView> {
  for (;;) {
    const { body } = await migrationCloud.cloud.request<MigrationView>(
      "GET",
      `/v1/migrations/${migrationId}`,
    );
    if (body.status === "completed") return body;
    if (body.status !== "in_progress" && body.status !== "pending") {
      throw new Fault("internal", `the migration is ${body.status}: ${JSON.stringify(body)}`);
    }
    await sleep(askEveryMs, signal);
  }
}

/** The destination's machine is made while the move prepares. */
async function openWhenThere(directory: string, signal: AbortSignal): Promise<Monitor> {
  for (;;) {
    try {
      return await Monitor.open(directory, monitorSocketNames[1], signal);
    } catch (error) {
      signal.throwIfAborted();
      if (!isAbsent(error)) throw error;
      await sleep(20, signal);
    }
  }
}

function isAbsent(error: unknown): boolean {
  const cause = error instanceof Fault ? error.cause : error;
  const code = (cause as NodeJS.ErrnoException | undefined)?.code;
  return code === "ENOENT" || code === "ECONNREFUSED";
}

/** The most that one of them holds until the signal. */
async function largestMemory(pids: readonly number[], signal: AbortSignal): Promise<number> {
  let largest = 0;
  while (!signal.aborted) {
    largest = Math.max(largest, ...(await Promise.all(pids.map(residentMib))));
    await sleep(askEveryMs, signal).catch(() => undefined); // it ends by being aborted
  }
  return largest;
}
