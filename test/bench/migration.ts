import { createHash, randomInt } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { Fault } from "#kernel/fault.ts";
import type { BenchContext, Benchmark, Measures } from "./support/benchmark.ts";
import {
  createGuest,
  deleteGuest,
  launchMigrationCloud,
  machineDirectory,
  type MigrationCloud,
} from "./support/migration-cloud.ts";
import { guestNames, prepareGuest, type BenchGuest, type GuestName } from "./support/migration-guests.ts";
import { copyGuest, type GuestPattern } from "./support/migration-machine.ts";
import { touchMemory } from "./support/migration-memory.ts";
import { linkRates, openNetwork, type BenchNetwork, type LinkRate } from "./support/migration-network.ts";
import { describeOutcome, pathNames, type Outcome, type PathName } from "./support/migration-outcome.ts";
import { moveByProduct } from "./support/migration-product.ts";
import { moveByHand } from "./support/migration-reference.ts";
import { median, round } from "./support/statistics.ts";

const defaultRuns = 3;
/** QEMU's own default, for all alike. */
const maxDowntimeMs = 300;

export const benchmark: Benchmark = {
  summary:
    "Live migration over a shaped link (--link 100mbit|1gbit|none) of a guest (--guest idle|mixed|warm) with its " +
    "disk, through the public API, against QEMU alone over plain TCP and over two connections with zstd, driven by " +
    "hand: the same guest, link and limit of downtime, in random order (--seed), --runs times, medians. With --back the " +
    "product moves it back as well, and the disk's bytes of both ways are compared. Before each move memory is had and " +
    "given back, in case that this machine is a guest whose hypervisor takes back what is free; --cold-memory leaves that out.",

  async run(bench) {
    const wish = readWish(bench.args);
    bench.say(`link ${wish.link}, guest ${wish.guest}, ${String(wish.runs)} runs, seed ${String(wish.seed)}`);
    const network = await openNetwork(bench, wish.link);
    const guest = await prepareGuest(wish.guest, bench, wish.seed);
    const cloud = await launchMigrationCloud(bench, network, guest);
    const pattern = await bootPattern(bench, cloud, guest);
    const outcomes = new Map<PathName, Outcome[]>(wish.paths.map((name) => [name, []]));
    for (let run = 1; run <= wish.runs; run++) {
      for (const name of shuffle(wish.paths, `${String(wish.seed)}/${String(run)}`)) {
        const outcome = await move(name, run, { ...wish, bench, cloud, network, guest, pattern });
        outcomes.get(name)?.push(outcome);
        bench.say(`run ${String(run)}, ${describeOutcome(name, outcome)}`);
      }
    }
    return summarise(outcomes);
  },
};

interface Wish {
  readonly link: LinkRate;
  readonly guest: GuestName;
  readonly runs: number;
  readonly seed: number;
  readonly paths: readonly PathName[];
  /** The product moves it back as well. */
  readonly back: boolean;
  /** What a hypervisor under this machine has taken back of its memory, the moves have to fetch again. */
  readonly coldMemory: boolean;
}

function readWish(args: readonly string[]): Wish {
  const { values } = parseArgs({
    args: [...args],
    options: {
      link: { type: "string", default: "1gbit" },
      guest: { type: "string", default: "mixed" },
      runs: { type: "string", default: String(defaultRuns) },
      seed: { type: "string", default: String(randomInt(1, 1_000_000)) },
      /** Only some of them, for whoever looks for a fault. */
      paths: { type: "string", default: pathNames.join(",") },
      back: { type: "boolean", default: false },
      "cold-memory": { type: "boolean", default: false },
    },
  });
  return {
    link: oneOf("link", linkRates, values.link),
    guest: oneOf("guest", guestNames, values.guest),
    runs: countOf("runs", values.runs),
    seed: countOf("seed", values.seed),
    paths: values.paths.split(",").map((name) => oneOf("paths", pathNames, name)),
    back: values.back,
    coldMemory: values["cold-memory"],
  };
}

function oneOf<T extends string>(option: string, values: readonly T[], given: string): T {
  const value = values.find((one) => one === given);
  if (value === undefined) throw new Fault("invalid", `--${option} is one of ${values.join(", ")}`);
  return value;
}

function countOf(option: string, given: string): number {
  const value = Number(given);
  if (!Number.isInteger(value) || value < 1) throw new Fault("invalid", `--${option} is a count`);
  return value;
}

/**
 * Boots a guest at the destination and takes down how, for the moves by hand. It leaves the image in the destination's
 * cache, as the product's moves want it.
 */
async function bootPattern(
  bench: BenchContext,
  { client, destination }: MigrationCloud,
  guest: BenchGuest,
): Promise<GuestPattern> {
  const files = await mkdtemp(path.join(tmpdir(), "skm-"));
  bench.teardown(() => rm(files, { recursive: true, force: true }));
  bench.say("Booting a guest as the pattern of those that are moved by hand ...");
  const id = await createGuest(client, destination, guest, "pattern", bench.signal);
  const pattern = await copyGuest(machineDirectory(destination, id), path.join(files, "pattern"));
  await deleteGuest(client, id, bench.signal);
  return pattern;
}

interface World {
  readonly bench: BenchContext;
  readonly cloud: MigrationCloud;
  readonly network: BenchNetwork;
  readonly guest: BenchGuest;
  readonly pattern: GuestPattern;
  readonly back: boolean;
  readonly coldMemory: boolean;
}

async function move(name: PathName, run: number, world: World): Promise<Outcome> {
  const { signal } = world.bench;
  const beforeMove = () =>
    world.coldMemory ? Promise.resolve() : touchMemory(world.pattern.argv[0] ?? "", signal);
  if (name === "skerry") {
    const label = `moved-${String(run)}`;
    const outcome = await moveByProduct({
      ...{ migrationCloud: world.cloud, guest: world.guest, back: world.back, maxDowntimeMs, signal },
      ...{ name: label, say: (line) => world.bench.say(line), beforeMove },
    });
    world.bench.say(JSON.stringify(outcome.told));
    return outcome;
  }
  const directory = path.join(world.pattern.files, "..", `${name}-${String(run)}`);
  const compression = name === "tcp" ? "none" : name;
  const { network, pattern } = world;
  const { readyLimitMs } = world.guest;
  return await moveByHand({
    guest: pattern,
    network,
    readyLimitMs,
    compression,
    maxDowntimeMs,
    directory,
    beforeMove,
    signal,
  });
}

/** Any order is as likely as any other, and a seed repeats it. */
function shuffle<T extends string>(names: readonly T[], seed: string): T[] {
  const keyOf = (name: T) => createHash("sha256").update(`${seed}/${name}`).digest("hex");
  return [...names].sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1));
}

/** Ratios are of a run's own three moves; what an absent path would give is left out. */
function summarise(outcomes: ReadonlyMap<PathName, readonly Outcome[]>): Measures {
  const of = (name: PathName, value: (outcome: Outcome) => number) => (outcomes.get(name) ?? []).map(value);
  const ratio = (other: PathName, value: (outcome: Outcome) => number) => {
    const others = of(other, value);
    return of("skerry", value).map((own, index) => own / (others[index] ?? NaN));
  };
  const bytes = ({ bytes }: Outcome) => bytes;
  const seconds = ({ seconds }: Outcome) => seconds;
  const downtime = ({ downtimeMs }: Outcome) => downtimeMs;
  const gigabytes = of("tcp", (outcome) => outcome.bytes / 1e9);
  const values: Readonly<Record<string, readonly number[]>> = {
    bytes_vs_tcp: ratio("tcp", bytes),
    bytes_vs_multifd_zstd: ratio("multifd-zstd", bytes),
    time_vs_tcp: ratio("tcp", seconds),
    time_vs_multifd_zstd: ratio("multifd-zstd", seconds),
    downtime_ms: of("skerry", downtime),
    downtime_vs_tcp: ratio("tcp", downtime),
    // Of the agents, for each gigabyte that plain TCP had to carry.
    cpu_s_per_gb: of("skerry", ({ cpuSeconds }) => cpuSeconds).map(
      (own, index) => own / (gigabytes[index] ?? NaN),
    ),
    agent_mib: of("skerry", ({ agentMib }) => agentMib),
    disk_bytes_back_vs_first: of("skerry", ({ diskBackVsFirst }) => diskBackVsFirst ?? NaN),
    time_s: of("skerry", seconds),
    tcp_time_s: of("tcp", seconds),
    tcp_bytes: of("tcp", bytes),
    tcp_downtime_ms: of("tcp", downtime),
    multifd_zstd_time_s: of("multifd-zstd", seconds),
    multifd_zstd_bytes: of("multifd-zstd", bytes),
  };
  const known = Object.entries(values).filter(([, all]) => all.length > 0 && all.every(Number.isFinite));
  return Object.fromEntries(known.map(([name, all]) => [name, round(median(all))]));
}
