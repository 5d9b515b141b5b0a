import { readdir, readFile } from "node:fs/promises";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import type { Database } from "./database.ts";
import { locks } from "./locks.ts";

/**
 * Brings the schema up to date: numbered files, forward only, each in a transaction of its own, under
 * an advisory lock. A schema newer than this release is left alone: migrations stay readable by the
 * release before.
 * @param directory folder of `0001-name.sql` files
 */
export async function migrate(database: Database, directory: URL, log: Logger): Promise<void> {
  await database.query(
    `create table if not exists schema_migration (
       version int primary key, name text not null, applied_at timestamptz not null default now())`,
  );
  const files = (await readdir(directory)).filter((file) => /^\d{4}-.*\.sql$/.test(file)).sort();
  if (files.length === 0) throw new Fault("internal", "no migrations were found");
  for (const file of files) {
    const version = Number(file.slice(0, 4));
    const sql = await readFile(new URL(file, directory), "utf8");
    const applied = await database.transaction(async (tx) => {
      await tx.query("select pg_advisory_xact_lock($1)", [locks.migrations]);
      const [known] = await tx.query("select 1 from schema_migration where version = $1", [version]);
      if (known) return false;
      await tx.query(sql);
      await tx.query("insert into schema_migration (version, name) values ($1, $2)", [version, file]);
      return true;
    });
    if (applied) log.info("schema.migrated", { version, file });
  }
}
