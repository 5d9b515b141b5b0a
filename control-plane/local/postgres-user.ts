/**
 * PostgreSQL refuses to run as root. Two ways to be somebody else, each tried before it is used:
 * a user namespace in which root is called nobody (files stay root's), and the real user nobody, who
 * keeps the right to pass closed folders (a checkout is often below root's home).
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { Fault } from "#kernel/fault.ts";

export interface PostgresUser {
  /** Put before a program's argv; ends with the death signal, which a change of user would clear. */
  readonly prefix: readonly [string, ...string[]];
  /** Who must own the data folder. */
  readonly uid: number;
  readonly gid: number;
}

const run = promisify(execFile);
const probeLimitMs = 5_000;
const nobody = 65534;
const dieWithParent = ["setpriv", "--pdeathsig", "INT"] as const;

/** @param uid the uid of this process */
export async function choosePostgresUser(uid: number, gid: number): Promise<PostgresUser> {
  if (uid !== 0) return { prefix: dieWithParent, uid, gid };
  const causes: unknown[] = [];
  for (const user of [namespaced, realNobody]) {
    const [program, ...args] = [...user.prefix, "true"] as const;
    try {
      await run(program, args, { timeout: probeLimitMs });
      return user;
    } catch (cause) {
      causes.push(cause);
    }
  }
  throw new Fault(
    "unavailable",
    "PostgreSQL does not run as root, and this system lets root neither make a user namespace nor become " +
      "nobody: start Skerry as a normal user, or set DATABASE_URL",
    { reason: "POSTGRES_NEEDS_USER", cause: new AggregateError(causes) },
  );
}

const namespaced: PostgresUser = {
  prefix: [
    "unshare",
    "-U",
    `--map-user=${String(nobody)}`,
    `--map-group=${String(nobody)}`,
    ...dieWithParent,
  ],
  uid: 0,
  gid: 0,
};

/** For systems, such as most containers, where root may not make a user namespace. */
export const realNobody: PostgresUser = {
  prefix: [
    "setpriv",
    `--reuid=${String(nobody)}`,
    `--regid=${String(nobody)}`,
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
    ...dieWithParent,
  ],
  uid: nobody,
  gid: nobody,
};
