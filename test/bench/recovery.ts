import { parseTopology } from "#cp/local/topology.ts";
import { Database } from "#cp/store/database.ts";
import { silentLogger } from "#kernel/log.ts";
import type { Host } from "#sdk/index.ts";
import { PartitionNetwork } from "#test/support/partition-network.ts";
import { pickPort } from "#test/support/ports.ts";
import { killProcessesOf } from "#test/support/processes.ts";
import { until } from "#test/support/until.ts";
import type { Benchmark, BenchContext } from "./support/benchmark.ts";
import { benchCloud, roomyControlPlane, smallest, type BenchCloud } from "./support/cloud.ts";
import { median, round } from "./support/statistics.ts";

const names = ["site-1", "site-2", "site-3"] as const;
const drivers = {
  fake: { rounds: 4, machines: 10, spec: smallest },
  qemu: { rounds: 2, machines: 2, spec: { ...smallest, memory_bytes: 128 * 2 ** 20 } },
};
type Driver = keyof typeof drivers;
const limitMs = 90_000;

export const benchmark: Benchmark = {
  summary:
    "A host dies at once: its line is cut, its agent and its machines are killed. Seconds until it shows as offline, " +
    "until it is known as lost and until all its machines of restart_elsewhere run on other hosts, by default settings, each host in a network namespace " +
    "(needs root). --driver fake|qemu; the worst round counts.",

  async run(bench) {
    const driver = parseDriver(bench.args);
    const { rounds, machines, spec } = drivers[driver];
    const world = await openWorld(bench, driver);
    const seen: number[] = [];
    const lost: number[] = [];
    const elsewhere: number[] = [];
    for (let index = 1; index <= rounds; index++) {
      bench.signal.throwIfAborted();
      const victim = names[index % names.length]!;
      const ids = await createOn(world, victim, machines, spec, `r${String(index)}`);
      const died = await loseHost(world, victim, ids);
      bench.say(
        `round ${String(index)}: seen after ${died.seen.toFixed(1)} s, lost after ${died.lost.toFixed(1)} s, ` +
          `elsewhere after ${died.elsewhere.toFixed(1)} s`,
      );
      seen.push(died.seen);
      lost.push(died.lost);
      elsewhere.push(died.elsewhere);
      await bringBack(world, victim);
      for (const id of ids) await world.client.instances.delete(id);
    }
    return {
      driver,
      machines,
      seen_s: round(Math.max(...seen)),
      seen_median_s: round(median(seen)),
      lost_s: round(Math.max(...lost)),
      lost_median_s: round(median(lost)),
      elsewhere_s: round(Math.max(...elsewhere)),
      elsewhere_median_s: round(median(elsewhere)),
    };
  },
};

interface World extends Omit<BenchCloud, "database"> {
  readonly network: PartitionNetwork;
  readonly database: Database;
}

function parseDriver(args: readonly string[]): Driver {
  const [flag = "--driver", driver = "fake"] = args;
  if (flag === "--driver" && driver in drivers) return driver as Driver;
  throw new Error("--driver is fake or qemu");
}

async function openWorld(bench: BenchContext, driver: Driver): Promise<World> {
  const network = await PartitionNetwork.open(bench);
  for (const name of names) await network.addHost(name);
  const port = await pickPort();
  const hosts = names.map((name) => ({ name, provider: name, region: name, driver, share: 0.3 }));
  const {
    cloud,
    client,
    database: server,
  } = await benchCloud(bench, {
    agents: parseTopology(JSON.stringify({ hosts })).hosts,
    controlPlaneEnv: {
      ...roomyControlPlane,
      SKERRY_GATEWAY_LISTEN: network.address,
      SKERRY_GATEWAY_PORT: String(port),
    },
    placeAgent: ({ name }, program) => network.place(name, port, program),
  });
  const database = new Database({ url: server.url, maxConnections: 1, log: silentLogger });
  bench.teardown(() => database[Symbol.asyncDispose]());
  return { cloud, client, network, database };
}

async function hostNamed({ client }: World, name: string): Promise<Host> {
  return client.hosts.find(name);
}

/** Machines that may be started elsewhere, all on one host. */
async function createOn(world: World, victim: string, count: number, spec: typeof smallest, label: string) {
  const { instances, hosts } = world.client;
  const others = await Promise.all(
    names.filter((name) => name !== victim).map((name) => hostNamed(world, name)),
  );
  for (const { id } of others) await hosts.cordon(id);
  const made = await Promise.all(
    Array.from({ length: count }, (_, index) =>
      instances.create({
        name: `${label}-${String(index)}`,
        spec: { ...spec, on_host_loss: "restart_elsewhere" },
      }),
    ),
  );
  for (const { id } of made) await instances.waitFor(id, { phases: ["running"], timeoutMs: limitMs });
  for (const { id } of others) await hosts.uncordon(id);
  // Others must have reached it while it was well.
  await until(async () => {
    const rows = await world.database.query("select 1 from host_session where reached is not true");
    return rows.length === 0;
  }, limitMs);
  return made.map(({ id }) => id);
}

async function loseHost(world: World, victim: string, ids: readonly string[]) {
  const { client, cloud, network } = world;
  const { id: hostId } = await hostNamed(world, victim);
  const agent = cloud.agents.find(({ host }) => host.name === victim)!;
  await network.cut(victim, "both", "all");
  const diedAt = performance.now();
  await Promise.all([agent.program.kill(), killProcessesOf(agent.dataDirectory)]);
  const seconds = () => (performance.now() - diedAt) / 1000;
  await until(async () => (await client.hosts.get(hostId)).phase !== "online", limitMs, 50);
  const seen = seconds();
  await until(async () => (await client.hosts.get(hostId)).phase === "lost", limitMs, 50);
  const lost = seconds();
  for (const id of ids) {
    await until(
      async () => {
        const { phase, placement } = await client.instances.get(id);
        return phase === "running" && placement?.host_id !== hostId;
      },
      limitMs,
      50,
    );
  }
  return { seen, lost, elsewhere: seconds() };
}

async function bringBack(world: World, victim: string): Promise<void> {
  const agent = world.cloud.agents.find(({ host }) => host.name === victim)!;
  await world.network.heal(victim);
  await agent.program.start();
  await world.cloud.untilHosts("online", [victim]);
}
