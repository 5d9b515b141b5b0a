/**
 * The knobs of the fake driver as data: what a test sets in code, or writes into a file that a
 * running agent watches. A mistake in them is told, never ignored: a knob that silently does nothing
 * makes a test that cannot fail.
 */
import { Fault, type FaultCode, faultCodes } from "#kernel/fault.ts";

/** What the driver does: its calls, and the parts of sending a machine away. */
export const fakeCalls = [
  ...(["ensure", "remove", "receive", "disk-copy", "pre-copy", "switchover", "post-copy"] as const),
];
export type FakeCall = (typeof fakeCalls)[number];

/** The next `times` calls fail with this fault. `after`: the effect has happened, only the answer is lost. */
export interface FakeFailure {
  readonly call: FakeCall;
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
  /** These wait, before they have an effect, for as long as they are named here. */
  readonly hold: readonly FakeCall[];
  /** Every how many milliseconds guests count, print and write to their memory and disk; 0: there are none. */
  readonly tickMs: number;
  /** Pages of memory that each tick changes. */
  readonly dirtyPages: number;
  /** Sizes of what a machine that is made now has to move, in pages of 4 KiB. */
  readonly memoryPages: number;
  readonly diskPages: number;
  /** Guests may run here before all of their memory has arrived. */
  readonly postCopy: boolean;
  /** How fast a machine leaves; 0: as fast as the other side takes it. */
  readonly pagesPerSecond: number;
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
  hold: [],
  tickMs: 0,
  dirtyPages: 1,
  memoryPages: 64,
  diskPages: 64,
  postCopy: false,
  pagesPerSecond: 0,
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

const isNumber = (least: number, most: number) => (value: unknown) =>
  typeof value === "number" && value >= least && value <= most;
const isCall = (value: unknown) => fakeCalls.some((call) => call === value);

const checks: Readonly<Record<string, (value: unknown) => boolean>> = {
  stepping: (value) => value === "auto" || value === "manual",
  delayMs: isNumber(0, 600_000),
  failures: (value) => Array.isArray(value) && value.every(isFailure),
  hold: (value) => Array.isArray(value) && value.every(isCall),
  tickMs: isNumber(0, 60_000),
  dirtyPages: isNumber(0, 100_000),
  memoryPages: isNumber(1, 100_000),
  diskPages: isNumber(1, 100_000),
  postCopy: (value) => typeof value === "boolean",
  pagesPerSecond: isNumber(0, 1_000_000),
  crash: isIds,
  powerOff: isIds,
  lose: isIds,
};

function isFailure(value: unknown): boolean {
  return (
    isRecord(value) &&
    isCall(value.call) &&
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
