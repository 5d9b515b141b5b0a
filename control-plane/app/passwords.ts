/** Passwords as Argon2id hashes. */
import { hash, verify, type Options } from "@node-rs/argon2";
import { Fault } from "#kernel/fault.ts";
import { newSecret } from "./tokens.ts";

export type PasswordCost = Pick<Options, "memoryCost" | "timeCost">;

const defaultCost: PasswordCost = { memoryCost: 19_456, timeCost: 2 };
/** Argon2id takes 19 MiB and a thread each: more at a time would let a flood of logins starve the rest. */
const maxAtOnce = 32;

export class Passwords {
  readonly #cost: PasswordCost;
  #running = 0;
  #decoy: Promise<string> | undefined;

  constructor(cost: PasswordCost = defaultCost) {
    this.#cost = cost;
  }

  hash(password: string): Promise<string> {
    return this.#limited(() => hash(password, this.#cost));
  }

  /** Whether it is the right one. Without a hash to compare with it takes as long, and is never right. */
  async matches(expected: string | null | undefined, password: string): Promise<boolean> {
    const against = expected ?? (await (this.#decoy ??= hash(newSecret(""), this.#cost)));
    const right = await this.#limited(() => verify(against, password));
    return right && typeof expected === "string";
  }

  async #limited<T>(work: () => Promise<T>): Promise<T> {
    if (this.#running >= maxAtOnce) {
      throw new Fault("unavailable", "too many logins at once", { reason: "LOGIN_BUSY" });
    }
    this.#running++;
    try {
      return await work();
    } finally {
      this.#running--;
    }
  }
}
