/**
 * The knobs of the fake driver as data: what a test sets in code, or writes into a file that a
 * running agent watches. A mistake in them is told, never ignored: a knob that silently does nothing
 * makes a test that cannot fail.
 */
import { Fault, type FaultCode, faultCodes } from "#kernel/fault.ts";

/** The next `times` calls fail with this fault. `after`: the effect has happened, only the answer is lost. */
export interface FakeFailure {
  readonly call: "ensure" | "remove";
  readonly when: "before" | "after";
  readonly times: number;
  readonly code: FaultCode;
  readonly reason: string;
}

export interface FakeKnobs {
  /** `manual`: every ensure waits to be let through one by one; back to `auto` lets all through. */
  readonly stepping: "auto" | "manual";
  /** How long each ensure takes. */
  readonly delayMs: number;
  readonly failures: readonly FakeFailure[];
  /** Ids of machines that die now; `*` is all of them. */
  readonly crash: readonly string[];
  /** Ids of guests that power themselves off now. */
  readonly powerOff: readonly string[];
  /** Ids of machines whose files vanish now. */
  readonly lose: readonly string[];
}

export const noKnobs: FakeKnobs = {
  stepping: "auto",
  delayMs: 0,
  failures: [],
  crash: [],
  powerOff: [],
  lose: [],
};

/** Reads the knobs file; what is left out has its default. Throws `invalid` with the knob at fault. */
export function parseKnobs(text: string): FakeKnobs {
  let given: unknown;
  try {
    given = JSON.parse(text);
  } catch (cause) {
    throw wrong("the file is not JSON", cause);
  }
  if (!isRecord(given)) throw wrong("the file must hold an object");
  for (const [name, value] of Object.entries(given)) {
    const check = checks[name];
    if (!check) throw wrong(`${name} is not a knob`);
    if (!check(value)) throw wrong(`${name} has an impossible value`);
  }
  return { ...noKnobs, ...given };
}

const isIds = (value: unknown) => Array.isArray(value) && value.every((id) => typeof id === "string");

const checks: Readonly<Record<string, (value: unknown) => boolean>> = {
  stepping: (value) => value === "auto" || value === "manual",
  delayMs: (value) => typeof value === "number" && value >= 0 && value <= 600_000,
  failures: (value) => Array.isArray(value) && value.every(isFailure),
  crash: isIds,
  powerOff: isIds,
  lose: isIds,
};

function isFailure(value: unknown): boolean {
  return (
    isRecord(value) &&
    (value.call === "ensure" || value.call === "remove") &&
    (value.when === "before" || value.when === "after") &&
    Number.isInteger(value.times) &&
    faultCodes.includes(value.code as FaultCode) &&
    typeof value.reason === "string"
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function wrong(message: string, cause?: unknown): Fault {
  return new Fault("invalid", `fake knobs: ${message}`, { reason: "FAKE_KNOBS_INVALID", cause });
}
