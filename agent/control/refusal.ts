import { Fault, faultCodes } from "#kernel/fault.ts";

/** A fault as the control plane words it where no call's status could carry it; undefined when it is none. */
export function readRefusal({
  code,
  reason,
  message,
}: {
  readonly code?: unknown;
  readonly reason?: unknown;
  readonly message?: unknown;
}): Fault | undefined {
  const known = faultCodes.find((candidate) => candidate === code);
  if (!known || typeof reason !== "string" || typeof message !== "string") return undefined;
  return reason && message ? new Fault(known, message, { reason }) : undefined;
}
