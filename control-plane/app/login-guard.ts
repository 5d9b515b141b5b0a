/**
 * How many wrong passwords somebody may try. Failures are counted by account and address, and a few in a row
 * lock that address out. Many from addresses where the account was never at home lock out all such, but not
 * the ones where its owner has logged in lately: nobody keeps the owner out from afar.
 */
import { isIPv6 } from "node:net";
import type { Account, AccountStore } from "./account-store.ts";
import type { Passwords } from "./passwords.ts";

const limits = {
  /** In a row, from one address. */
  address: 5,
  /** In a row, from all addresses that are strange to the account. */
  strangers: 50,
  lockMs: 5 * 60_000,
} as const;
/** For so long an address is known after a login. */
export const knownMs = 30 * 86_400_000;

/** Who somebody says to be, and from where. */
export interface Claim {
  readonly username: string;
  readonly password: string;
  readonly address?: string | undefined;
}

export interface LoginGuardOptions {
  readonly store: Pick<AccountStore, "findByUsername" | "recordFailure" | "recordSuccess">;
  readonly passwords: Pick<Passwords, "matches">;
  readonly now?: () => number;
}

export class LoginGuard {
  readonly #store: LoginGuardOptions["store"];
  readonly #passwords: LoginGuardOptions["passwords"];
  readonly #now: () => number;

  constructor({ store, passwords, now = Date.now }: LoginGuardOptions) {
    this.#store = store;
    this.#passwords = passwords;
    this.#now = now;
  }

  /** The account whose password that is, unless it is locked. A failure is counted, and takes as long. */
  async identify({ username, password, address = "" }: Claim): Promise<Account | undefined> {
    const account = await this.#store.findByUsername(username, networkOf(address));
    const right = await this.#passwords.matches(account?.passwordHash, password, networkOf(address));
    const locked = account !== undefined && this.isLocked(account);
    if (account && right && !locked) return account;
    if (!locked) await this.failed(account, address);
    return undefined;
  }

  /** Whether somebody who is logged in has shown what could be guessed. A failure counts as a wrong password does. */
  async passes(username: string, address = "", isRight: () => Promise<boolean>): Promise<boolean> {
    const account = await this.#store.findByUsername(username, networkOf(address));
    if (account && this.isLocked(account)) return false;
    if (await isRight()) return true;
    await this.failed(account, address);
    return false;
  }

  /** Whether a login is refused now, whatever the password. */
  isLocked({ lockedUntil, here }: Account): boolean {
    const now = this.#now();
    const still = (until: Date | null) => until !== null && until.getTime() > now;
    const known = here.succeededAt !== null && here.succeededAt.getTime() > now - knownMs;
    return still(here.lockedUntil) || (still(lockedUntil) && !known);
  }

  /** Notes a failure. Takes as long for an account that there is not, so that the clock tells nothing. */
  failed(account: Account | undefined, address: string): Promise<void> {
    const lockUntil = new Date(this.#now() + limits.lockMs);
    return this.#store.recordFailure(account?.id ?? "", networkOf(address), { ...limits, lockUntil });
  }

  succeeded({ id }: Account, address: string): Promise<void> {
    return this.#store.recordSuccess(id, networkOf(address), new Date(this.#now()));
  }
}

/** An IPv6 subscriber has 2^64 addresses: they count as one. */
export function networkOf(address: string): string {
  const plain = address.replace(/^::ffff:(?=\d+\.)/i, "").replace(/%.*$/, "");
  if (!isIPv6(plain)) return plain;
  const [head = "", tail] = plain.split("::");
  const left = head === "" ? [] : head.split(":");
  const right = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeros = Array.from({ length: tail === undefined ? 0 : 8 - left.length - right.length }, () => "0");
  return `${[...left, ...zeros, ...right].slice(0, 4).join(":")}::`;
}
