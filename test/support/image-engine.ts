/** An engine on a real database that knows images only, and no host. */
import type { AgentPort } from "#cp/agents/port.ts";
import { Engine } from "#cp/engine/engine.ts";
import { createImageController } from "#cp/resources/image/image.actions.ts";
import { createRegistry } from "#cp/resources/registry.ts";
import { defaultPolicy } from "#cp/scheduler/default-policy.ts";
import type { Database } from "#cp/store/database.ts";
import type { EgressPolicy } from "#kernel/egress.ts";
import { newId } from "#kernel/id.ts";
import { silentLogger } from "#kernel/log.ts";

const maxBytes = 100 * 1024 ** 2;

/** Makes one that is yet to be started. */
export function makeImageEngine(database: Database, egress: EgressPolicy): Engine {
  const controllers = [
    createImageController({
      egress,
      maxBytes,
      store: () => Promise.reject(new Error("nothing is copied")),
      patienceMs: 300,
    }),
  ];
  return new Engine({
    database,
    registry: createRegistry(controllers),
    controllers,
    agents: noAgents(),
    policy: defaultPolicy(),
    log: silentLogger,
    now: Date.now,
    replicaId: newId("replica"),
    replicaUrl: "http://replica",
    concurrency: 4,
    pollMs: 50,
    sweepMs: 60_000,
  });
}

function noAgents(): AgentPort {
  const absent = () => {
    throw new Error("no host takes part");
  };
  const unused = () => Promise.reject(new Error("no host takes part"));
  return {
    connected: () => [],
    onChange: () => ({ [Symbol.dispose]: () => undefined }),
    ensureMachine: unused,
    removeMachine: unused,
    probeHost: unused,
    machineMetrics: unused,
    hostMetrics: unused,
    readConsoleLog: unused,
    readWorkloadLog: unused,
    captureDisk: absent,
    readImageFile: absent,
    attachConsole: absent,
  };
}
