/** Seals what was stored before there was a key, such as by a release before this one. */
import type { Database } from "../store/database.ts";
import type { Sealer } from "./sealer.ts";

/** Where secrets stand: each is sealed for the key of its row. */
const places = [
  { table: "cloud_key", key: "name", secret: "private_pem" },
  { table: "token_key", key: "kid", secret: "private_key" },
  { table: "second_factor", key: "account_id", secret: "secret" },
] as const;
const batch = 500;

/** Gives how many it sealed. Replicas may do it at the same time: each row is changed once. */
export async function sealWhatIsOpen(database: Database, sealer: Sealer): Promise<number> {
  if (!sealer.seals) return 0;
  let count = 0;
  for (const { table, key, secret } of places) {
    let after = "";
    for (;;) {
      const rows = await database.query<{ key: string; secret: string }>(
        `select ${key} as key, ${secret} as secret from ${table} where ${key} > $1 order by ${key} limit ${String(batch)}`,
        [after],
      );
      for (const row of rows.filter((each) => sealer.isOpen(each.secret))) {
        await database.query(`update ${table} set ${secret} = $2 where ${key} = $1 and ${secret} = $3`, [
          row.key,
          sealer.seal(row.secret, row.key),
          row.secret,
        ]);
        count++;
      }
      after = rows.at(-1)?.key ?? "";
      if (rows.length < batch) break;
    }
  }
  return count;
}
