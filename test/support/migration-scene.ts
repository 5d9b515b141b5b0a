/** Instances that move between simulated hosts, with a real engine on a real database, and what is told of it. */
import type { Test } from "tap";
import type { Reply } from "#cp/app/resource-api.ts";
import { resourceColumns, toResource, type ResourceRow } from "#cp/engine/rows.ts";
import type { Resource } from "#cp/resources/definition.ts";
import { migration, type Migration } from "#cp/resources/migration/migration.resource.ts";
import { testCtx, World, type Replica, type WorldOptions } from "./engine-world.ts";
import type { Teardown } from "./postgres.ts";
import { Simulation, type SimulatedHost } from "./simulated-host.ts";
import { until } from "./until.ts";

export interface Scene {
  readonly world: World<SimulatedHost>;
  readonly simulation: Simulation;
}

/** Gives what sets scenes on a database, one after the other; each ends with its test. */
export const scenesOn =
  (databaseUrl: string) =>
  async (t: Teardown, options: WorldOptions = {}): Promise<Scene> => {
    const simulation = new Simulation();
    const world = await World.startWith(databaseUrl, simulation.startHost, options);
    t.teardown(() => world.stop());
    return { world, simulation };
  };

/** Asks for a move and gives its id. */
export async function migrate({ resources }: Replica, vm: string, spec: object = {}): Promise<string> {
  let id = "";
  const respond = (resource: Resource): Reply => {
    id = resource.id;
    return { status: 201, headers: {}, body: null };
  };
  await resources.create(
    testCtx(),
    migration,
    { name: "move", spec: { instance: vm, ...spec } },
    { respond },
  );
  return id;
}

export async function readMigration({ world }: Scene, id: string): Promise<Migration> {
  const [row] = await world.database.query<ResourceRow>(
    `select ${resourceColumns} from resource where id = $1`,
    [id],
  );
  if (!row) throw new Error(`there is no ${id}`);
  return toResource(row) as Migration;
}

/** Waits until it is in one of the phases. */
export async function untilMigration(scene: Scene, id: string, ...phases: string[]): Promise<Migration> {
  await until(async () => phases.includes((await readMigration(scene, id)).phase));
  return readMigration(scene, id);
}

/** Nothing is left over, and no guest ran twice or with less than it had written. */
export async function assertSound(t: Test, { world, simulation }: Scene, what: string): Promise<void> {
  t.strictSame(await world.lastingViolations(), [], `${what}: nothing is left over`);
  t.strictSame(simulation.seen, [], `${what}: nobody saw two running or an old one`);
}
