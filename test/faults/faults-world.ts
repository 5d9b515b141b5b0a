/** What the tests of faults share: instances through the API, and the truth on all sides, compared. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { createAgentClients, type AgentClients } from "#sdk/agent.ts";
import { Skerry } from "#sdk/client.ts";
import { Database } from "#cp/store/database.ts";
import { type Machine, MachineState } from "#gen/skerry/agent/v1/machine_pb.js";
import { createCertificateRequest, newPrivateKey } from "#kernel/certificate-request.ts";
import { silentLogger } from "#kernel/log.ts";
import { retry } from "#kernel/retry.ts";
import type { TestCloud } from "#test/support/cloud.ts";
import type { Teardown } from "#test/support/postgres.ts";
import { until } from "#test/support/until.ts";

export { seededRandom } from "#test/support/random.ts";

export const MiB = 1024 ** 2;

/** The least that an instance can be, so that many fit on a fake host. */
export const smallSpec = { image: "micro", cpus: 1, memory_bytes: 64 * MiB, disk_bytes: 64 * MiB };

/** What somebody asked of an instance that is still there. */
export interface Wanted {
  readonly id: string;
  readonly name: string;
  readonly cpus: number;
  readonly power: "on" | "off";
}

/** One instance as every side has it, in a form in which equal means right. */
interface Seen {
  readonly id: string;
  readonly name: string;
  readonly cpus: number;
  readonly phase: string;
  readonly problem: string;
  /** Hosts of the instance, of its promises and of its incarnations: one and the same. */
  readonly hosts: readonly (string | null)[];
  /** CPUs promised, and CPUs of the machine. */
  readonly promised: readonly number[];
  readonly machines: readonly { readonly host: string; readonly state: string; readonly cpus: number }[];
}

/** A cloud, or the same one seen through another replica. */
export type Door = Pick<TestCloud, "url" | "apiKey" | "agents">;

export function clientOf(cloud: Pick<Door, "url" | "apiKey">): Skerry {
  return new Skerry({ url: cloud.url, apiKey: cloud.apiKey });
}

export function openDatabase(t: Teardown, cloud: TestCloud): Database {
  const database = new Database({ url: cloud.databaseUrl, maxConnections: 2, log: silentLogger });
  t.teardown(() => database[Symbol.asyncDispose]());
  return database;
}

/** Clients of the agents' own ports, by host id: what they say needs no control plane to be believed. */
export async function agentClients(cloud: Door): Promise<ReadonlyMap<string, AgentClients>> {
  const { hosts } = clientOf(cloud);
  const privateKey = newPrivateKey();
  const issued = await hosts.issueCertificate(createCertificateRequest(privateKey));
  const key = privateKey.export({ type: "pkcs8", format: "pem" }).toString();
  const clients = new Map<string, AgentClients>();
  for await (const { id, status } of hosts.list()) {
    clients.set(
      id,
      createAgentClients({ address: status?.listen_address ?? "", hostId: id, key, ...issued }),
    );
  }
  return clients;
}

/** A way that was cut a moment ago may reset the first connection on it. */
const reaching = { attempts: 20, baseMs: 100, capMs: 500, when: () => true };

/** Every machine that the agents admit to, with its host. */
export async function listMachines(cloud: Door): Promise<readonly (Machine & { hostId: string })[]> {
  const lists = [...(await agentClients(cloud))].map(async ([hostId, { machines }]) => {
    const signal = AbortSignal.timeout(10_000);
    const listed = await retry(() => machines.listMachines({}, { signal }), { ...reaching, signal });
    return listed.machines.map((machine) => Object.assign(machine, { hostId }));
  });
  return (await Promise.all(lists)).flat();
}

/** Folders of machines on the hosts' disks, by id. */
export async function listMachineFolders(cloud: Door): Promise<string[]> {
  const folders = cloud.agents.map(({ dataDirectory }) =>
    readdir(join(dataDirectory, "machines")).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return []; // a host that never had a machine
      throw error;
    }),
  );
  return (await Promise.all(folders)).flat().sort();
}

/** How the cloud looks when it is exactly as wanted. */
export function expectedState(wanted: readonly Wanted[]): object {
  const ids = wanted.map(({ id }) => id).sort();
  return {
    instances: wanted
      .map(({ id, name, cpus, power }) => {
        const on = power === "on";
        const phase = on ? "running" : "stopped";
        return {
          id,
          name,
          cpus,
          phase,
          problem: "",
          oneHost: true,
          promised: [cpus],
          machines: [{ state: phase, cpus }],
        };
      })
      .sort(byId),
    folders: ids,
    incarnations: ids,
    reservations: ids,
    strangers: [],
    activeOperations: 0,
    unsettledWork: 0,
  };
}

/** How the cloud looks: API, tables and agents held against one another. */
export async function observeState(cloud: Door, database: Database): Promise<object> {
  const [machines, folders, tables] = await Promise.all([
    listMachines(cloud),
    listMachineFolders(cloud),
    readTables(database),
  ]);
  const seen: Seen[] = [];
  for await (const { id, name, spec, phase, problem, status } of clientOf(cloud).instances.list()) {
    const own = machines.filter((machine) => machine.id === id);
    const promises = tables.reservations.filter((row) => row.resource_id === id);
    const incarnations = tables.incarnations.filter((row) => row.resource_id === id);
    seen.push({
      id,
      name,
      cpus: spec.cpus,
      phase,
      problem: problem?.reason ?? "",
      hosts: [status?.host_id ?? null, ...[...promises, ...incarnations].map(({ host_id }) => host_id)],
      promised: promises.map(({ cpus }) => cpus),
      machines: own.map(({ hostId, state, vcpus }) => ({
        host: hostId,
        state: (MachineState[state] ?? "").toLowerCase(),
        cpus: vcpus,
      })),
    });
  }
  const known = new Set(seen.map(({ id }) => id));
  return {
    instances: seen
      .map(({ hosts, machines: found, ...rest }) => ({
        ...rest,
        oneHost: new Set([...hosts, ...found.map(({ host }) => host)]).size === 1,
        machines: found.map(({ state, cpus }) => ({ state, cpus })),
      }))
      .sort(byId),
    folders,
    incarnations: tables.incarnations.map(({ resource_id }) => resource_id).sort(),
    reservations: tables.reservations.map(({ resource_id }) => resource_id).sort(),
    strangers: machines.filter(({ id }) => !known.has(id)).map(({ id }) => id),
    activeOperations: tables.activeOperations,
    unsettledWork: tables.unsettledWork,
  };
}

/** Waits until nothing is under way in the database, which is when the state may be judged. */
export async function untilQuiet(database: Database, limitMs = 60_000): Promise<void> {
  await until(
    async () => {
      const { activeOperations, unsettledWork } = await readTables(database);
      return activeOperations === 0 && unsettledWork === 0;
    },
    limitMs,
    20,
  );
}

interface Promised {
  readonly resource_id: string;
  readonly host_id: string;
  readonly cpus: number;
}

async function readTables(database: Database) {
  const reservations = await database.query<Promised>("select resource_id, host_id, cpus from reservation");
  const incarnations = await database.query<Promised>(
    "select resource_id, host_id, 0 as cpus from incarnation",
  );
  const [busy] = await database.query<{ operations: number; work: number }>(
    `select (select count(*) from operation where status in ('running', 'undoing')) as operations,
            (select count(*) from work where kind = 'instance'
               and (run_at is not null or lease_until is not null)) as work`,
  );
  return {
    reservations,
    incarnations,
    activeOperations: busy?.operations ?? 0,
    unsettledWork: busy?.work ?? 0,
  };
}

const byId = (a: { readonly id: string }, b: { readonly id: string }) => (a.id < b.id ? -1 : 1);
