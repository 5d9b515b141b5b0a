/** What QEMU is told about how fast memory may go and how long the guest may stand still. */
import { type Move, MoveType, OnUnreachable } from "#gen/skerry/agent/v1/migration_pb.js";
import type { RunningMachine } from "../running-machine.ts";

export interface Limits {
  readonly bandwidth: number;
  readonly downtimeMs: number;
}

/** Whoever carries the bytes holds them back; QEMU's own default would be 128 MiB/s. */
const unlimited = 2 ** 50;
/** One page in a tenth of a second: enough that a round never ends by itself, and nothing on any link. */
const heldBandwidth = 40 * 1024;
const defaultDowntimeMs = 300;
/** QEMU stops the guest as soon as the rest fits, so it is asked for little first: most guests can do better. */
const firstDowntimeMs = 40;
export const greatestDowntimeMs = 2_000_000;

/** What is left for the commands, the commit and the start at the other host. */
function reserveMs(maxDowntimeMs: number): number {
  return Math.min(100, maxDowntimeMs / 3);
}

/** The longest that the memory's last part may take. */
export function downtimeBudgetMs(move: Move): number {
  const limit = move.maxDowntimeMs === 0 ? defaultDowntimeMs : move.maxDowntimeMs;
  return Math.max(1, Math.round(limit - reserveMs(limit)));
}

/** What the guest may stand still for, at the next try. @param neededMs what the best round would have taken */
export function nextDowntimeMs(move: Move, before: number, neededMs = 0): number {
  const next = before === 0 ? firstDowntimeMs : Math.max(before * 2, neededMs);
  return Math.ceil(Math.min(downtimeBudgetMs(move), next));
}

/**
 * Held back, a stream that is nearly done neither ends (the guest would stand still until somebody notices) nor keeps
 * the link busy.
 */
export function deriveLimits(state: {
  readonly held: boolean;
  readonly mayEnd: boolean;
  readonly downtimeMs: number;
}): Limits {
  return {
    bandwidth: state.held ? heldBandwidth : unlimited,
    downtimeMs: state.mayEnd ? state.downtimeMs : 0,
  };
}

/** At the source, before the stream begins. */
export async function setCapabilities(
  machine: RunningMachine,
  move: Move,
  signal: AbortSignal,
): Promise<void> {
  // QEMU takes CPU time away from a guest that writes too fast, in steps, once it has decided to.
  const throttles = { capability: "auto-converge", state: move.onUnreachable === OnUnreachable.THROTTLE };
  const capabilities = [...capabilityList(move), throttles];
  await machine.execute("migrate-set-capabilities", { capabilities }, signal);
}

export async function setLimits(machine: RunningMachine, limits: Limits, signal: AbortSignal): Promise<void> {
  const parameters = { "max-bandwidth": limits.bandwidth, "downtime-limit": limits.downtimeMs };
  await machine.execute("migrate-set-parameters", parameters, signal);
}

/**
 * Without the return path the source is content when its last byte has left, and a relay that loses the tail loses the
 * machine.
 */
const moveCapabilities = { events: true, "return-path": true, "pause-before-switchover": true };

/** What both ends of a move must agree on, as QMP wants it. */
export function capabilityList({ type }: Pick<Move, "type">): { capability: string; state: boolean }[] {
  const wanted = { ...moveCapabilities, "postcopy-ram": type === MoveType.POSTCOPY };
  return Object.entries(wanted).map(([capability, state]) => ({ capability, state }));
}
