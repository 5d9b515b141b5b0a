/** Puts the built-in flavors into the root project. Those that somebody changed or deleted stay as they are. */
import { insertResource } from "../engine/rows.ts";
import { builtInFlavors } from "../resources/flavor/built-in.ts";
import { flavor } from "../resources/flavor/flavor.resource.ts";
import { seedIdOf } from "../resources/seed-id.ts";
import type { Database } from "../store/database.ts";
import { rootProject } from "./authorisation.ts";
import { locks } from "../store/locks.ts";

export async function seedFlavors(database: Database): Promise<void> {
  await database.transaction(async (tx) => {
    await tx.query("select pg_advisory_xact_lock($1)", [locks.flavorSeeds]);
    const known = await tx.query<{ id: string; name: string }>(
      `select id, name from resource where kind = $1 and project = $2
       union all select id, '' from tombstone where kind = $1`,
      [flavor.kind, rootProject],
    );
    const taken = new Set(known.flatMap(({ id, name }) => [id, name]));
    for (const { name, spec } of builtInFlavors) {
      const id = seedIdOf(flavor.kind, flavor.idPrefixes[0], name);
      if (taken.has(id) || taken.has(name)) continue;
      const row = { id, project: rootProject, name, labels: {}, desired: spec, observed: null, refs: {} };
      await insertResource(tx, flavor, row);
    }
  });
}
