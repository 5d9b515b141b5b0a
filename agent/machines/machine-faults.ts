/** What there is to say of a machine that does not get where it should. */
import { Fault } from "#kernel/fault.ts";

/** Why a machine that may run elsewhere does not run here: reason and message. */
export const fenced = [
  "LEASE_EXPIRED",
  "the control plane has not been heard for so long that the machine may be started on another host",
] as const;

export function superseded(): Fault {
  return new Fault("stale", "a newer command has taken over", { reason: "SUPERSEDED" });
}

/** Making it anew would hide that its disk is gone; only a change that its owner makes does that. */
export function lost(): Fault {
  return new Fault("notFound", "the machine's files have vanished from the host", { reason: "MACHINE_LOST" });
}
