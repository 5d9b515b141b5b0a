/** The product for a migration's benchmark: control plane and database on this computer, an agent on each host. */
import path from "node:path";
import { parseTopology } from "#cp/local/topology.ts";
import { Skerry } from "#sdk/index.ts";
import { launchCloud, type TestAgent, type TestCloud } from "#test/support/cloud.ts";
import type { BenchContext } from "./benchmark.ts";
import { roomyControlPlane } from "./cloud.ts";
import { benchDatabase } from "./database.ts";
import type { BenchGuest } from "./migration-guests.ts";
import type { BenchHost, BenchNetwork } from "./migration-network.ts";

const targets = {
  "site-a": { provider: "aws", region: "us-east-1" },
  "site-b": { provider: "azure", region: "eastus" },
} as const;

/** One of the two sites: where it is, how it is asked for, who runs it. */
export interface BenchSite {
  readonly host: BenchHost;
  readonly target: { readonly provider: string; readonly region: string };
  readonly agent: TestAgent;
}

export interface MigrationCloud {
  readonly cloud: TestCloud;
  readonly client: Skerry;
  readonly source: BenchSite;
  readonly destination: BenchSite;
}

export async function launchMigrationCloud(
  bench: BenchContext,
  network: BenchNetwork,
  { images }: BenchGuest,
): Promise<MigrationCloud> {
  const hosts = [network.source, network.destination];
  const topology = hosts.map(({ name }) => ({ name, ...targets[name], driver: "qemu", share: 1 }));
  const { url: databaseUrl } = await benchDatabase(bench);
  const cloud = await launchCloud({
    databaseUrl,
    images,
    agents: parseTopology(JSON.stringify({ hosts: topology })).hosts,
    controlPlaneEnv: { ...roomyControlPlane, SKERRY_GATEWAY_LISTEN: "0.0.0.0" },
    placeAgent({ name }, { argv, env }) {
      const host = hosts.find((one) => one.name === name);
      if (!host) throw new RangeError(`there is no host ${name}`);
      const port = env["SKERRY_AGENT_GATEWAY"]?.split(":").at(-1) ?? "";
      return {
        argv: host.on(argv),
        env: {
          ...env,
          SKERRY_AGENT_GATEWAY: `${host.controlPlaneAddress}:${port}`,
          SKERRY_AGENT_LISTEN_HOST: host.linkAddress,
        },
      };
    },
  });
  bench.teardown(() => cloud[Symbol.asyncDispose]());
  const siteOf = (host: BenchHost): BenchSite => {
    const agent = cloud.agents.find((one) => one.host.name === host.name);
    if (!agent) throw new RangeError(`there is no agent of ${host.name}`);
    return { host, agent, target: targets[host.name] };
  };
  return {
    cloud,
    client: new Skerry({ url: cloud.url, apiKey: cloud.apiKey }),
    source: siteOf(network.source),
    destination: siteOf(network.destination),
  };
}

/** The folder of a machine at a site. */
export function machineDirectory({ agent }: BenchSite, instanceId: string): string {
  return path.join(agent.dataDirectory, "machines", instanceId);
}

/** Creates the guest at a site and waits until its machine runs. */
export async function createGuest(
  client: Skerry,
  site: BenchSite,
  guest: BenchGuest,
  name: string,
  signal: AbortSignal,
): Promise<string> {
  const { id } = await client.instances.create({ name, spec: { ...guest.spec, ...site.target } });
  await client.instances.waitFor(id, { phases: ["running"], signal });
  return id;
}

export async function deleteGuest(client: Skerry, id: string, signal: AbortSignal): Promise<void> {
  await client.instances.delete(id);
  await client.instances.waitFor(id, { signal }); // until it is gone
}
