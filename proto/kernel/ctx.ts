import type { Logger } from "./log.ts";
import type { Trace } from "./trace.ts";

export const roles = ["viewer", "operator", "admin"] as const;
export type Role = (typeof roles)[number];

export const plans = ["standard", "premium", "enterprise"] as const;
export type Plan = (typeof plans)[number];

/** Who is asking. `system` is the control plane itself: loops, sweeps, reports. */
export interface Principal {
  readonly kind: "user" | "host" | "system";
  readonly id: string;
  readonly name: string;
  /** The project whose resources the caller sees. */
  readonly project: string;
  readonly role: Role;
  /** True: with an API key that changes nothing. */
  readonly readOnly?: true;
  /** The API key that speaks for it. */
  readonly keyId?: string;
  /** The limits of its rate; see the settings. */
  readonly plan?: Plan;
}

export interface Trail {
  readonly address: string;
  recorded: boolean;
  /** Who a login turned out to be of: it begins as nobody's. */
  who?: Principal;
}

/** First parameter of everything that does I/O: cancellation, identity, log and clock in one place. */
export interface Ctx {
  readonly log: Logger;
  readonly signal: AbortSignal;
  readonly principal: Principal;
  readonly requestId: string;
  /** The caller's, if it has told of one. */
  readonly trace?: Trace | undefined;
  /** Where the request came from, and whether its change has been written into the audit log with it. */
  readonly trail?: Trail;
  /** The clock, as Unix milliseconds; injected so that tests can move it. */
  now(): number;
}

export const systemPrincipal: Principal = {
  kind: "system",
  id: "system",
  name: "system",
  project: "root",
  role: "admin",
};
