/** A move as a customer of the product orders it, through the public API. */
import { monitorSocketNames } from "#agent/drivers/hypervisor/files.ts";
import { Fault } from "#kernel/fault.ts";
import { deadline, sleep } from "#kernel/retry.ts";
import {
  type BenchSite,
  createGuest,
  deleteGuest,
  machineDirectory,
  type MigrationCloud,
} from "./migration-cloud.ts";
import type { BenchGuest } from "./migration-guests.ts";
import { untilNextTick, untilReady } from "./migration-machine.ts";
import { Monitor } from "./migration-monitor.ts";
import { describeOutcome, type Outcome } from "./migration-outcome.ts";
import { cpuSeconds, residentMib } from "./process-usage.ts";

const moveLimitMs = 600_000;
/** Cores are short while it moves, and whoever asks takes of them what the moves by hand need not give. */
const askEveryMs = 500;
const lookAtMemoryMs = 200;
/** The migration itself must not go the way of the commands. */
const mostControlBytes = 4e6;

interface Receipt {
  readonly downtime_ms: number | null;
  readonly bytes: { readonly disk_wire: number };
}

/** What the native API tells of a migration, as far as it is read here. */
interface MigrationView {
  readonly id: string;
  readonly phase: string;
  readonly status: {
    readonly waiting_for: string | null;
    readonly receipt: Receipt | null;
    readonly error: { readonly reason: string; readonly message: string } | null;
  } | null;
}

export interface ProductMoveOptions {
  readonly migrationCloud: MigrationCloud;
  readonly guest: BenchGuest;
  readonly name: string;
  readonly maxDowntimeMs: number;
  /** Moves it back as well. */
  readonly back: boolean;
  /** Each time that the guest is ready, and nothing is counted yet. */
  beforeMove(): Promise<void>;
  readonly signal: AbortSignal;
  readonly say: (line: string) => void;
}

export interface ProductMove extends Outcome {
  /** All that the API tells of it when it is over. */
  readonly told: Receipt;
}

interface Way {
  readonly name: string;
  readonly from: BenchSite;
  readonly to: BenchSite;
}

/** Makes a new guest at the source, has it moved, sees it live at the destination, and deletes it. */
export async function moveByProduct(options: ProductMoveOptions): Promise<ProductMove> {
  const { migrationCloud, guest, name, signal } = options;
  const { client, source, destination } = migrationCloud;
  const id = await createGuest(client, source, guest, name, signal);
  const directory = machineDirectory(source, id);
  await untilReady(directory, guest.readyLimitMs, signal);
  const moved = await move(id, { name: `${name}-away`, from: source, to: destination }, options);
  const back =
    options.back && (await move(id, { name: `${name}-back`, from: destination, to: source }, options));
  await deleteGuest(client, id, signal); // after a failure it goes with the whole cloud
  if (!back) return moved;
  options.say(`  back: ${describeOutcome("skerry", back)}; ${JSON.stringify(back.told)}`);
  return { ...moved, diskBackVsFirst: back.told.bytes.disk_wire / moved.told.bytes.disk_wire };
}

async function move(id: string, { name, from, to }: Way, options: ProductMoveOptions): Promise<ProductMove> {
  const { migrationCloud, maxDowntimeMs } = options;
  const { cloud } = migrationCloud;
  await options.beforeMove();
  await untilNextTick(machineDirectory(from, id), options.signal);
  using limit = deadline(moveLimitMs, "the move", options.signal);
  const directory = machineDirectory(to, id);
  using leaving = await Monitor.open(machineDirectory(from, id), monitorSocketNames[1], limit);
  const pids = [from.agent.program.pid, to.agent.program.pid];
  const usage = async () => ({
    link: await from.host.countLinkBytes(),
    control: (await from.host.countControlBytes()) + (await to.host.countControlBytes()),
    cpu: (await Promise.all(pids.map(cpuSeconds))).reduce((sum, each) => sum + each, 0),
  });
  const before = await usage();
  const begunAt = Date.now();
  const spec = { instance: id, ...to.target, max_downtime_ms: maxDowntimeMs };
  const asked = await cloud.request<MigrationView>("POST", "/skerry/v1/migrations", { name, spec });
  const { body, status } = asked;
  if (status >= 300)
    throw new Fault("internal", `the API answered ${String(status)}: ${JSON.stringify(body)}`);
  const over = new AbortController();
  const agentMib = largestMemory(pids, AbortSignal.any([over.signal, limit]));
  const [told, arrived] = await Promise.all([
    untilOver(options, body.id, limit),
    openWhenThere(directory, AbortSignal.any([over.signal, limit])),
  ]).finally(() => over.abort());
  using arriving = arrived;
  const receipt = told.status?.receipt;
  if (!receipt) throw new Fault("internal", "the migration has no receipt");
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
    claimedDowntimeMs: receipt.downtime_ms ?? NaN,
    cpuSeconds: after.cpu - before.cpu,
    agentMib: await agentMib,
    told: receipt,
  };
}

async function untilOver(
  { migrationCloud, say }: ProductMoveOptions,
  migrationId: string,
  signal: AbortSignal,
): Promise<MigrationView> {
  let said = "";
  for (;;) {
    const path = `/skerry/v1/migrations/${migrationId}`;
    const { body } = await migrationCloud.cloud.request<MigrationView>("GET", path);
    if (body.phase === "complete") return body;
    if (["failed", "cancelled"].includes(body.phase)) {
      throw new Fault("internal", `the migration has ${body.phase}: ${JSON.stringify(body.status)}`);
    }
    const state = [body.phase, body.status?.waiting_for ?? ""]
      .filter((word) => word !== "")
      .join(", waits: ");
    if (state !== said) say(`  ${state}`);
    said = state;
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
    const held = pids.map((pid) => residentMib(pid).catch(() => 0)); // one that has died shows elsewhere
    largest = Math.max(largest, ...(await Promise.all(held)));
    await sleep(lookAtMemoryMs, signal).catch(() => undefined); // it ends by being aborted
  }
  return largest;
}
