/**
 * Whether an instance would be better off elsewhere. Pure. Only what is clearly better and pays for its move soon is
 * advised, and nothing that has only just come: so that two hosts of nearly one price do not send it to and fro.
 */
import { defaultCostScale, convert, perHour } from "./prices.ts";
import { greatCircle } from "./scorers/distance.ts";
import type { GeoPoint, HostSnapshot, PlacementRequest } from "./snapshot.ts";

export interface Standing {
  readonly host: HostSnapshot;
  readonly request: PlacementRequest;
  /** What a move carries. */
  readonly bytes: number;
  /** How long it has been where it is. */
  readonly stayedMs: number;
}

export interface Thresholds {
  /** Of what it costs now. */
  readonly leastSaving: number;
  /** Of how far it is now. */
  readonly leastNearing: number;
  readonly leastKm: number;
  /** Within this the move has paid for itself. */
  readonly paybackHours: number;
  readonly restHours: number;
}

export const defaultThresholds: Thresholds = {
  leastSaving: 0.15,
  leastNearing: 0.3,
  leastKm: 100,
  paybackHours: 72,
  restHours: 24,
};

export interface Move {
  readonly savesPerHour: number | null;
  readonly currency: string | null;
  readonly savesKm: number | null;
  /** Traffic out of where it is, in the same currency. */
  readonly moveCosts: number;
  readonly paysBackHours: number | null;
  readonly reasons: readonly string[];
}

const GiB = 1024 ** 3;
const hourMs = 3_600_000;

/** Undefined when it is best left alone. */
export function planRelocation(
  { host, request, bytes, stayedMs }: Standing,
  to: HostSnapshot,
  thresholds: Thresholds = defaultThresholds,
): Move | undefined {
  if (stayedMs < thresholds.restHours * hourMs) return undefined;
  const now = host.prices && perHour(host.prices, request);
  const currency = host.prices?.currency ?? null;
  const then =
    to.prices && currency !== null
      ? convert(perHour(to.prices, request), to.prices.currency, currency, defaultCostScale)
      : undefined;
  const savesPerHour = now === undefined || then === undefined ? null : now - then;
  const moveCosts = (host.prices?.egressPerGib ?? 0) * (bytes / GiB);
  const paysBackHours = savesPerHour !== null && savesPerHour > 0 ? moveCosts / savesPerHour : null;
  const cheaper =
    savesPerHour !== null &&
    savesPerHour >= thresholds.leastSaving * (now ?? 0) &&
    paysBackHours !== null &&
    paysBackHours <= thresholds.paybackHours;
  const distances = request.near && distanceOf(request.near, host, to);
  const savesKm = distances ? distances.now - distances.then : null;
  const nearer =
    distances !== undefined &&
    distances.now - distances.then >= Math.max(thresholds.leastKm, thresholds.leastNearing * distances.now);
  // What gains one thing may not lose the other.
  const dearer = savesPerHour !== null && savesPerHour < 0;
  const farther = savesKm !== null && savesKm < -thresholds.leastKm;
  if (!((cheaper && !farther) || (nearer && !dearer))) return undefined;
  const reasons = [
    ...(cheaper ? [`${(now ?? 0).toFixed(4)} ${currency ?? ""}/h now, ${(then ?? 0).toFixed(4)} there`] : []),
    ...(nearer ? [`${kilometres(distances.now)} away now, ${kilometres(distances.then)} there`] : []),
    moveCosts > 0
      ? `the move costs ${moveCosts.toFixed(2)} ${currency ?? ""} of traffic${
          paysBackHours === null ? "" : `, paid back in ${paysBackHours.toFixed(1)} h`
        }`
      : `the move carries ${(bytes / GiB).toFixed(1)} GiB at no price`,
  ];
  return { savesPerHour, currency, savesKm, moveCosts, paysBackHours, reasons };
}

function distanceOf(near: GeoPoint, from: HostSnapshot, to: HostSnapshot) {
  if (!from.location || !to.location) return undefined;
  const kmTo = greatCircle(near);
  return { now: kmTo(from.location), then: kmTo(to.location) };
}

const kilometres = (km: number): string => `${String(Math.round(km))} km`;
