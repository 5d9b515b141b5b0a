/**
 * Many agents in one process, each the product's own with the fake driver inside: what it is told over the channel
 * that its parent opened, and what it tells back, is in `agent-swarm.ts`. It ends with that channel.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setMaxListeners } from "node:events";
import { runAgent } from "#agent/agent.ts";
import { readAgentSettings } from "#agent/settings.ts";
import { toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import type { SwarmCommand, SwarmEvent, SwarmHost } from "./agent-swarm.ts";
import { StallingProxy } from "./stalling-proxy.ts";

/** None of them is ever told to end: that is the process's end. */
const { signal: never } = new AbortController();
setMaxListeners(0, never);
const proxies = new Map<string, StallingProxy>();
const running = new Set<Promise<void>>();
/** Its parent may be gone already; then this process is about to end, too. */
const tell = (event: SwarmEvent) => void process.send?.(event, undefined, undefined, () => undefined);

async function run(host: SwarmHost): Promise<void> {
  const { name, directory, gateway, token, labels, sampleSeconds, keepAliveSeconds } = host;
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const labelsFile = join(directory, "labels.json");
  await writeFile(labelsFile, JSON.stringify(labels));
  const settings = readAgentSettings({
    SKERRY_AGENT_DATA: directory,
    SKERRY_AGENT_NAME: name,
    SKERRY_AGENT_TOKEN: token,
    SKERRY_AGENT_LABELS_FILE: labelsFile,
    SKERRY_AGENT_GATEWAY: host.canBeCut ? await throughProxy(host) : gateway,
    SKERRY_AGENT_DRIVER: "fake",
    SKERRY_AGENT_CONTAINERS: "off",
    SKERRY_AGENT_LISTEN_HOST: "127.0.0.1",
    SKERRY_AGENT_LISTEN_PORT: "0",
    SKERRY_AGENT_SAMPLE_SECONDS: String(sampleSeconds),
    SKERRY_AGENT_KEEP_ALIVE_SECONDS: String(keepAliveSeconds),
  });
  const { cpus, memoryBytes, diskBytes } = host.capacity;
  const readHardware = async () => ({
    ...{ operatingSystem: "simulated", cpuModel: "simulated", cpus },
    ...{ memoryBytes: BigInt(memoryBytes), diskBytes: BigInt(diskBytes) },
  });
  await runAgent(settings, listenerFor(name), never, { readHardware });
}

/** Its line to the control plane, which can be cut while the host itself stays up. */
async function throughProxy({ name, gateway }: SwarmHost): Promise<string> {
  const proxy = await StallingProxy.start({ port: Number(gateway.split(":").at(-1)) });
  proxies.set(name, proxy);
  return `127.0.0.1:${String(proxy.port)}`;
}

/** An agent's log is how it tells that it is connected. */
function listenerFor(name: string): Logger {
  const quiet = () => undefined;
  const log: Logger = {
    debug: quiet,
    info: (event) => {
      if (event === "session.connected") tell({ type: "connected", name });
    },
    warn: quiet,
    error: (event, { fault } = {}) =>
      tell({ type: "error", name, message: `${event}: ${toFault(fault).message}` }),
    with: () => log,
  };
  return log;
}

process.on("message", (command: SwarmCommand) => {
  if (command.type === "cut") {
    proxies.get(command.name)?.refuse();
    return;
  }
  const agent = run(command.host)
    .catch((thrown: unknown) => {
      tell({ type: "error", name: command.host.name, message: toFault(thrown).message });
    })
    .finally(() => running.delete(agent));
  running.add(agent);
});

// Whoever started it is gone, or wants no more of it: what agents have on disk goes with the parent's folder.
process.once("disconnect", () => process.exit(0));
