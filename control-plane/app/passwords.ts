/** Passwords as Argon2id hashes. */
import { hash, verify, type Options } from "@node-rs/argon2";
import { Fault } from "#kernel/fault.ts";
import { newSecret } from "./tokens.ts";

export type PasswordCost = Pick<Options, "memoryCost" | "timeCost">;

const defaultCost: PasswordCost = { memoryCost: 19_456, timeCost: 2 };
/** Argon2id takes 19 MiB and a thread each: more at a time would let a flood of logins starve the rest. */
const maxAtOnce = 32;
/** ... and one address may not take all of them. */
const maxFromOneAddress = 8;

export class Passwords {
  readonly #cost: PasswordCost;
  #running = 0;
  readonly #byAddress = new Map<string, number>();
  #decoy: Promise<string> | undefined;

  constructor(cost: PasswordCost = defaultCost) {
    this.#cost = cost;
  }

  hash(password: string): Promise<string> {
    return this.#limited(() => hash(password, this.#cost));
  }

  /**
   * Whether it is the right one. Without a hash to compare with it takes as long, and is never right.
   * @param address who asks, where that is known
   */
  async matches(expected: string | null | undefined, password: string, address = ""): Promise<boolean> {
    const against = expected ?? (await (this.#decoy ??= hash(newSecret(""), this.#cost)));
    const right = await this.#fairly(address, () => this.#limited(() => verify(against, password)));
    return right && typeof expected === "string";
  }

  async #fairly<T>(address: string, work: () => Promise<T>): Promise<T> {
    if (address === "") return work();
    const running = this.#byAddress.get(address) ?? 0;
    if (running >= maxFromOneAddress) throw busy();
    this.#byAddress.set(address, running + 1);
    try {
      return await work();
    } finally {
      const left = (this.#byAddress.get(address) ?? 1) - 1;
      if (left > 0) this.#byAddress.set(address, left);
      else this.#byAddress.delete(address);
    }
  }

  async #limited<T>(work: () => Promise<T>): Promise<T> {
    if (this.#running >= maxAtOnce) throw busy();
    this.#running++;
    try {
      return await work();
    } finally {
      this.#running--;
    }
  }
}

const busy = () => new Fault("unavailable", "too many logins at once", { reason: "LOGIN_BUSY" });
