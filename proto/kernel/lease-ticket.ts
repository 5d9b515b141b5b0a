/**
 * Leave to ask one host how it stands with its lease. A certificate is not enough for that: a host that was removed
 * keeps one until it expires. The authority signs it, so that the host that is asked needs to remember nothing and to
 * hear from nobody, which it cannot: it is asked when the control plane does not hear it.
 */
import { sign, verify, type KeyObject } from "node:crypto";

/** By two machines' clocks, of which one may be wrong by an hour. */
const lifeMs = 2 * 3_600_000;

/** @param key the authority's */
export function signLeaseTicket(hostId: string, key: KeyObject, nowMs: number): string {
  return `${String(nowMs)}.${sign("sha256", claimOf(hostId, nowMs), key).toString("base64url")}`;
}

/** @param key the authority's public one */
export function isLeaseTicket(ticket: string, hostId: string, key: KeyObject, nowMs: number): boolean {
  const [, issued = "", signature = ""] = /^(\d{1,15})\.([\w-]{1,200})$/.exec(ticket) ?? [];
  if (issued === "" || Math.abs(nowMs - Number(issued)) > lifeMs) return false;
  return verify("sha256", claimOf(hostId, Number(issued)), key, Buffer.from(signature, "base64url"));
}

/** Begins as nothing else does that the authority signs. */
function claimOf(hostId: string, issuedMs: number): Buffer {
  return Buffer.from(`skerry lease ticket\n${hostId}\n${String(issuedMs)}`);
}
