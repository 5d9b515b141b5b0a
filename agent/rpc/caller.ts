/** Who is calling one of the agent's services, as the transport has verified it. */
import { createContextKey, type HandlerContext } from "@connectrpc/connect";
import { Fault } from "#kernel/fault.ts";

export type Caller = "control-plane" | "operator" | "host";

/** Set by the transport on every call; what it forgets to set may do the least. */
export const callerKey = createContextKey<Caller>("host", { description: "caller" });

/** Machines have one writer: everybody else's mutation is `denied`. */
export function requireControlPlane(context: HandlerContext): void {
  if (context.values.get(callerKey) === "control-plane") return;
  throw new Fault("denied", "only the control plane may change machines", { reason: "CONTROL_PLANE_ONLY" });
}

/** Reads are for the control plane and for operators; other hosts, which may have been removed, have no business here. */
export function requireOperator(context: HandlerContext): void {
  if (context.values.get(callerKey) !== "host") return;
  throw new Fault("denied", "hosts may not read from each other", { reason: "OPERATOR_ONLY" });
}
