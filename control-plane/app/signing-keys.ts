/**
 * The EdDSA keys of access tokens. A new one is told before it signs, so that whoever verifies by the
 * published set has it in time; an old one verifies until the last token that it signed has expired.
 */
import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import { newIdSuffix } from "#kernel/id.ts";
import type { Database } from "../store/database.ts";
import type { Sealer } from "./sealer.ts";
import { locks } from "../store/locks.ts";

export interface SigningKey {
  readonly kid: string;
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
  readonly createdAtMs: number;
}

export interface SigningKeysOptions {
  readonly database: Database;
  readonly sealer: Sealer;
  readonly now?: () => number;
}

const dayMs = 86_400_000;
/** A key signs for so long ... */
export const rotationMs = 30 * dayMs;
/** ... from when everybody has had the time to fetch it ... */
export const announceMs = 15 * 60_000;
/** ... and is known for so long after that, more than the life of a token. */
const retireMs = 2 * 3_600_000;
/** How often an unknown key's name makes this replica look. */
const lookAgainMs = 5_000;
const reloadMs = 5 * 60_000;

interface KeyRow {
  readonly kid: string;
  readonly private_key: string;
  readonly created_at: Date;
}

export class SigningKeys {
  readonly #options: SigningKeysOptions;
  readonly #now: () => number;
  /** Newest first. */
  #keys: readonly SigningKey[] = [];
  #loadedAtMs = 0;

  private constructor(options: SigningKeysOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** Opens the cloud's keys; the first replica ever makes the first. */
  static async open(options: SigningKeysOptions): Promise<SigningKeys> {
    const keys = new SigningKeys(options);
    await keys.rotate();
    return keys;
  }

  /** The key to sign with: the newest that was announced long enough ago, or else the oldest. */
  async current(): Promise<SigningKey> {
    if (this.#now() - this.#loadedAtMs > reloadMs) await this.#load();
    const announced = this.#keys.find(({ createdAtMs }) => createdAtMs + announceMs <= this.#now());
    const key = announced ?? this.#keys.at(-1);
    if (!key) throw new Error("there is no signing key");
    return key;
  }

  /** The key of that name, if it is one of ours. */
  async find(kid: string): Promise<KeyObject | undefined> {
    const known = () => this.#keys.find((key) => key.kid === kid)?.publicKey;
    if (!known() && this.#now() - this.#loadedAtMs > lookAgainMs) await this.#load();
    return known();
  }

  /** The public halves, as RFC 7517 has them. */
  async publicSet(): Promise<{ readonly keys: readonly Readonly<Record<string, string>>[] }> {
    if (this.#now() - this.#loadedAtMs > lookAgainMs) await this.#load();
    return {
      keys: this.#keys.map(({ kid, publicKey }) => {
        const { x = "" } = publicKey.export({ format: "jwk" });
        return { kty: "OKP", crv: "Ed25519", x, kid, use: "sig", alg: "EdDSA" };
      }),
    };
  }

  /**
   * Makes a new key when the newest has signed long enough, or when told to, and forgets those that
   * nobody needs. Gives how many it made; replicas take turns.
   */
  async rotate(options: { readonly now?: true } = {}): Promise<number> {
    const { database, sealer } = this.#options;
    const made = await database.transaction(async (tx) => {
      await tx.query("select pg_advisory_xact_lock($1)", [locks.tokenKeys]);
      const now = this.#now();
      const [newest] = await tx.query<{ at: Date }>(
        "select max(created_at) as at from token_key having count(*) > 0",
      );
      if (newest && !options.now && newest.at.getTime() + rotationMs > now) return 0;
      const { privateKey } = generateKeyPairSync("ed25519");
      const kid = `tk-${newIdSuffix(now)}`;
      const secret = privateKey.export({ type: "pkcs8", format: "pem" }).toString();
      await tx.query("insert into token_key (kid, private_key, created_at) values ($1, $2, $3)", [
        kid,
        sealer.seal(secret, kid),
        new Date(now),
      ]);
      // A key stops signing once a newer one was announced long enough ago.
      await tx.query(
        `delete from token_key k where exists (
           select from token_key n where n.created_at > k.created_at and n.created_at < $1)`,
        [new Date(now - announceMs - retireMs)],
      );
      return 1;
    });
    await this.#load();
    return made;
  }

  async #load(): Promise<void> {
    const { database, sealer } = this.#options;
    const rows = await database.query<KeyRow>("select * from token_key order by created_at desc, kid");
    this.#keys = rows.map(({ kid, private_key, created_at }) => {
      const privateKey = createPrivateKey(sealer.unseal(private_key, kid));
      // Not the one that is stored beside it: what was sealed is ours, a row alone may be anybody's.
      return { kid, privateKey, publicKey: createPublicKey(privateKey), createdAtMs: created_at.getTime() };
    });
    this.#loadedAtMs = this.#now();
  }
}
