/**
 * The second factor of a login: one-time codes, each good once, and recovery codes for whoever lost the
 * device. A user has it once somebody has shown to hold the secret, or an administrator asked for it.
 */
import { randomBytes } from "node:crypto";
import type { Ctx } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import { changeResource, lockResource } from "../engine/rows.ts";
import { user } from "../resources/user/user.resource.ts";
import type { Database, Queryable, Tx } from "../store/database.ts";
import type { Sealer } from "./sealer.ts";
import { digestOf } from "./tokens.ts";
import { matchTotp, newTotpSecret, totpUrl } from "./totp.ts";

export interface SecondFactorOptions {
  readonly database: Database;
  readonly sealer: Sealer;
  readonly now?: () => number;
}

/** What a user takes into an authenticator app, shown once. */
export interface FactorSecret {
  readonly secret: string;
  readonly otpauth_url: string;
}

interface FactorRow {
  readonly secret: string;
  readonly confirmed: boolean;
}

const recoveryCodes = 10;
const recoveryBytes = 10;

export class SecondFactor {
  readonly #database: Database;
  readonly #sealer: Sealer;
  readonly #now: () => number;

  constructor({ database, sealer, now }: SecondFactorOptions) {
    this.#database = database;
    this.#sealer = sealer;
    this.#now = now ?? Date.now;
  }

  /** Begins: shows the caller a secret, which counts once a code of it was given. */
  async begin({ principal }: Ctx): Promise<FactorSecret> {
    const secret = newTotpSecret();
    const rows = await this.#database.query(
      `insert into second_factor (account_id, secret) values ($1, $2)
       on conflict (account_id) do update set secret = excluded.secret, last_step = 0
         where second_factor.confirmed_at is null returning 1`,
      [principal.id, this.#sealer.seal(secret, principal.id)],
    );
    if (rows.length === 0) {
      throw new Fault("conflict", "there is a second factor already", { reason: "MFA_ENABLED" });
    }
    return { secret, otpauth_url: totpUrl(secret, principal.name) };
  }

  /** Ends the beginning: from now on a login takes a code. Gives the recovery codes, this once. */
  async confirm(ctx: Ctx, code: string): Promise<readonly string[]> {
    const { id } = ctx.principal;
    return this.#database.transaction(async (tx) => {
      const factor = await this.#find(tx, id);
      if (!factor || factor.confirmed) {
        throw new Fault("conflict", "no second factor waits to be confirmed", { reason: "MFA_NOT_BEGUN" });
      }
      if (!(await this.#useCode(tx, id, factor.secret, code))) throw wrongCode();
      await setEnabled(tx, ctx, id, true);
      return this.#enable(tx, id);
    });
  }

  /** Gives a new user a second factor at once, for an administrator who hands the secret over. */
  async assign(tx: Tx, id: string, username: string) {
    const secret = newTotpSecret();
    await tx.query("insert into second_factor (account_id, secret) values ($1, $2)", [
      id,
      this.#sealer.seal(secret, id),
    ]);
    const codes = await this.#enable(tx, id);
    return { secret, otpauth_url: totpUrl(secret, username), recovery_codes: codes };
  }

  /** Takes the second factor away; the caller has checked who may. */
  async remove(ctx: Ctx, id: string): Promise<void> {
    await this.#database.transaction(async (tx) => {
      await tx.query("delete from second_factor where account_id = $1", [id]);
      await tx.query("delete from recovery_code where account_id = $1", [id]);
      await setEnabled(tx, ctx, id, false);
    });
  }

  /** Whether an account may log in with this code; `required`: there is none, and it takes one. */
  async check(id: string, code: string | undefined): Promise<boolean | "required"> {
    const factor = await this.#find(this.#database, id);
    if (!factor?.confirmed) return true;
    if (code === undefined || code === "") return "required";
    return (await this.#useCode(this.#database, id, factor.secret, code)) || this.#useRecovery(id, code);
  }

  async #find(on: Queryable, id: string): Promise<FactorRow | undefined> {
    const [row] = await on.query<FactorRow>(
      "select secret, confirmed_at is not null as confirmed from second_factor where account_id = $1",
      [id],
    );
    return row;
  }

  /** A code is taken once, and none before it afterwards: whoever watched it being typed has nothing. */
  async #useCode(on: Queryable, id: string, sealed: string, code: string): Promise<boolean> {
    const step = matchTotp(this.#sealer.unseal(sealed, id), code.replaceAll(" ", ""), this.#now());
    if (step === undefined) return false;
    const sql =
      "update second_factor set last_step = $2 where account_id = $1 and last_step < $2 returning 1";
    return (await on.query(sql, [id, step])).length > 0;
  }

  async #useRecovery(id: string, code: string): Promise<boolean> {
    const sql = "delete from recovery_code where account_id = $1 and code_hash = $2 returning 1";
    return (await this.#database.query(sql, [id, digestOf(code.trim().toLowerCase())])).length > 0;
  }

  async #enable(tx: Tx, id: string): Promise<readonly string[]> {
    await tx.query("update second_factor set confirmed_at = now() where account_id = $1", [id]);
    await tx.query("delete from recovery_code where account_id = $1", [id]);
    const codes = Array.from({ length: recoveryCodes }, () => randomBytes(recoveryBytes).toString("hex"));
    await tx.query("insert into recovery_code (account_id, code_hash) select $1, unnest($2::text[])", [
      id,
      codes.map(digestOf),
    ]);
    return codes;
  }
}

async function setEnabled(tx: Tx, ctx: Ctx, id: string, enabled: boolean): Promise<void> {
  const before = await lockResource(tx, id);
  if (!before) throw new Fault("notFound", "the user is gone");
  await changeResource(tx, user, before, { observed: { mfa_enabled: enabled } }, ctx.log);
}

export const wrongCode = () =>
  new Fault("invalid", "the code is not right, or was used before", { reason: "MFA_CODE_WRONG" });
