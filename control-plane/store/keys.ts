import type { Queryable } from "./database.ts";

export interface KeyPairPem {
  readonly privatePem: string;
  readonly publicPem: string;
}

/** What seals the private halves; see app/sealer.ts. */
export interface KeySealer {
  seal(secret: string, purpose: string): string;
  unseal(stored: string, purpose: string): string;
}

/** The cloud's own keys, shared by all replicas: whoever comes first decides. */
export class KeyStore {
  readonly #database: Queryable;
  readonly #sealer: KeySealer;

  constructor(database: Queryable, sealer: KeySealer) {
    this.#database = database;
    this.#sealer = sealer;
  }

  async find(name: string): Promise<KeyPairPem | undefined> {
    const [row] = await this.#database.query<KeyPairPem>(
      `select private_pem as "privatePem", public_pem as "publicPem" from cloud_key where name = $1`,
      [name],
    );
    return row && { ...row, privatePem: this.#sealer.unseal(row.privatePem, name) };
  }

  /** Stores the pair unless there is one; answers with the one that is stored. */
  async insertIfAbsent(name: string, pair: KeyPairPem): Promise<KeyPairPem> {
    await this.#database.query(
      "insert into cloud_key (name, private_pem, public_pem) values ($1, $2, $3) on conflict do nothing",
      [name, this.#sealer.seal(pair.privatePem, name), pair.publicPem],
    );
    return (await this.find(name)) ?? pair;
  }
}
