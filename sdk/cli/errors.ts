/** Faults as one line on stderr, a hint where there is one, and an exit code. */
import { CommanderError } from "commander";
import { isFault, toFault, type Fault } from "#kernel/fault.ts";
import { printable } from "#kernel/printable.ts";

export const exitCodes = {
  ok: 0,
  fault: 1,
  usage: 2,
  timeout: 3,
  unauthenticated: 4,
  unreachable: 5,
  interrupted: 130,
} as const;

/** Shown below `skerry --help`. */
export const exitCodeHelp = `
Exit codes:
  0  done
  1  refused or failed; stderr says why
  2  wrong use
  3  out of time; the work goes on in the cloud
  4  not logged in, or not allowed
  5  the cloud cannot be reached
  130  interrupted`;

const hints: Readonly<Record<string, string>> = {
  NO_CLOUD: "run `npm start` for a local cloud, `skerry login --url URL`, or set SKERRY_URL and SKERRY_TOKEN",
  NOT_LOGGED_IN: "run `skerry login`",
  MFA_REQUIRED: "give the one-time code with --mfa-code",
  CONNECTION_FAILED: "is the cloud running? `skerry doctor` looks for the cause",
  AMBIGUOUS_NAME: "use an id instead of the name",
  TIMEOUT: "the work goes on; look again later, or wait longer with --timeout",
};

/** These come from a login: another one is no advice. */
const loginRefused = new Set(["INVALID_CREDENTIALS", "MFA_CODE_WRONG"]);

/** The hint that goes with a fault. */
export function hintOf(fault: Fault): string | undefined {
  if (fault.code === "unauthenticated" && !loginRefused.has(fault.reason))
    return hints[fault.reason] ?? "log in with `skerry login`";
  return hints[fault.reason];
}

/** Lines for stderr: what went wrong, the fields that did, and what to do. */
export function describeFault(thrown: unknown): string {
  const fault = toFault(thrown);
  const cause = isFault(thrown) ? "" : thrown instanceof Error ? `: ${thrown.message}` : "";
  const lines = [`error: ${fault.message}${cause} (${fault.reason})`];
  const fields = fieldsOf(fault).map(({ field, message }) => `${field}: ${message}`);
  const told = fields.length === 1 && fault.message.endsWith(fieldsOf(fault)[0]?.message ?? "");
  if (!told) lines.push(...fields.map((field) => `  ${field}`));
  const known = knownOf(fault);
  if (known.length > 0) lines.push(`  known: ${known.join(", ")}`);
  const hint = hintOf(fault);
  if (hint) lines.push(`hint: ${hint}`);
  return lines.map((line) => `${printable(line)}\n`).join("");
}

/** A validation fault lists the fields that are wrong. */
function fieldsOf(fault: Fault): readonly { field: string; message: string }[] {
  const { fields } = fault.detail as { fields?: unknown };
  return Array.isArray(fields) ? (fields as { field: string; message: string }[]) : [];
}

/** What there is instead of a name that nothing has. */
function knownOf({ detail }: Fault): readonly string[] {
  const { known } = detail as { known?: unknown };
  const names = Array.isArray(known) ? known.filter((name) => typeof name === "string") : [];
  return names.length > namesShown ? [...names.slice(0, namesShown), "..."] : names;
}
const namesShown = 20;

/** The code that the process ends with. */
export function exitCodeOf(thrown: unknown): number {
  if (thrown instanceof CommanderError) return thrown.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
  const fault = toFault(thrown);
  if (fault.reason === "INTERRUPTED") return exitCodes.interrupted;
  if (fault.reason === "TIMEOUT") return exitCodes.timeout;
  if (fault.code === "unauthenticated" || fault.code === "denied") return exitCodes.unauthenticated;
  return fault.reason === "CONNECTION_FAILED" ? exitCodes.unreachable : exitCodes.fault;
}
