/**
 * How many wrong passwords somebody may try. Failures are counted by account and address, and a few in a row
 * lock that address out. Many from addresses where the account was never at home lock out all such, but not
 * the ones where its owner has logged in lately: nobody keeps the owner out from afar.
 */
import { isIPv6 } from "node:net";
import type { Account, AccountStore } from "./account-store.ts";

const limits = {
  /** In a row, from one address. */
  address: 5,
  /** In a row, from all addresses that are strange to the account. */
  strangers: 50,
  lockMs: 5 * 60_000,
} as const;
/** For so long an address is known after a login. */
export const knownMs = 30 * 86_400_000;

export class LoginGuard {
  readonly #store: Pick<AccountStore, "recordFailure" | "recordSuccess">;
  readonly #now: () => number;

  constructor(store: Pick<AccountStore, "recordFailure" | "recordSuccess">, now: () => number) {
    this.#store = store;
    this.#now = now;
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
