/** What tests of the engine begin with: worlds and replicas that end with their test, and instances at rest. */
import {
  createInstance,
  World,
  type Replica,
  type ReplicaOptions,
  type WorldAgent,
  type WorldOptions,
} from "./engine-world.ts";
import type { Teardown } from "./postgres.ts";

/** Gives what starts worlds on a database, one after the other. */
export const worldsOn =
  (databaseUrl: string) =>
  async (t: Teardown, options: WorldOptions = {}): Promise<World> => {
    const world = await World.start(databaseUrl, options);
    t.teardown(() => world.stop());
    return world;
  };

export async function replicaOf(
  t: Teardown,
  world: World<WorldAgent>,
  options: ReplicaOptions = {},
): Promise<Replica> {
  const replica = await world.replica(options);
  t.teardown(() => replica.stop());
  return replica;
}

export async function runningInstance(world: World<WorldAgent>, { resources }: Replica): Promise<string> {
  const id = await createInstance(resources);
  await world.untilPhase(id, "running");
  return id;
}

/** It runs, and nothing more is to be done about it. */
export async function settledInstance(world: World<WorldAgent>, { resources }: Replica): Promise<string> {
  const id = await createInstance(resources);
  await world.untilSettled(id, "running");
  return id;
}

export async function stoppedInstance(world: World<WorldAgent>, { resources }: Replica): Promise<string> {
  const id = await createInstance(resources, { power: "off" });
  await world.untilPhase(id, "stopped");
  return id;
}

/** Makes a host's record say whether it is connected, which is what the engine goes by. */
export async function showConnected(
  { database }: World<WorldAgent>,
  hostId: string,
  connected: boolean,
): Promise<void> {
  await database.query("update resource set observed = observed || $2 where id = $1", [
    hostId,
    { connected },
  ]);
}
