/** What QEMU is told about how fast memory may go and how long the guest may stand still. */
import { type Move, OnUnreachable } from "#gen/skerry/agent/v1/migration_pb.js";
import type { RunningMachine } from "../running-machine.ts";

export interface Limits {
  readonly bandwidth: number;
  readonly downtimeMs: number;
  /** Share of the guest's CPU time that is taken away when it writes too fast, once QEMU has decided to. */
  readonly throttle: boolean;
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

/** What the guest may stand still for, at the next try. */
export function nextDowntimeMs(move: Move, before: number): number {
  return Math.min(downtimeBudgetMs(move), before * 2 || firstDowntimeMs);
}

/**
 * Held back, a stream that is nearly done neither ends (the guest would stand still until somebody notices) nor keeps
 * the link busy.
 */
export function deriveLimits(
  move: Move,
  state: { readonly held: boolean; readonly mayEnd: boolean; readonly downtimeMs: number },
): Limits {
  return {
    bandwidth: state.held ? heldBandwidth : unlimited,
    downtimeMs: state.mayEnd ? state.downtimeMs : 0,
    throttle: move.onUnreachable === OnUnreachable.THROTTLE,
  };
}

/** Before the stream begins. */
export async function setCapabilities(
  machine: RunningMachine,
  limits: Limits,
  signal: AbortSignal,
): Promise<void> {
  const wanted = { ...moveCapabilities, "auto-converge": limits.throttle };
  await machine.execute("migrate-set-capabilities", { capabilities: capabilityList(wanted) }, signal);
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
export function capabilityList(
  wanted: Readonly<Record<string, boolean>> = moveCapabilities,
): { capability: string; state: boolean }[] {
  return Object.entries(wanted).map(([capability, state]) => ({ capability, state }));
}
