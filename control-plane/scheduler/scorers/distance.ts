import type { Scorer } from "../policy.ts";
import type { GeoPoint } from "../snapshot.ts";

const earthRadiusKm = 6371;
const radians = Math.PI / 180;

/**
 * How far a host is from where it is needed: 1 on the spot, 1/2 at `halfKm`, 1/3 at twice that. The
 * curve is steep where nearness is felt; the far side of the earth is hardly worse than a far continent.
 * A host that does not say where it is scores 0: it cannot be counted on to be near.
 */
export function distance(halfKm = 1000): Scorer {
  return {
    name: "distance",
    scope: "labels",
    fit({ near }) {
      if (near === undefined) return undefined;
      const kmTo = greatCircle(near);
      return {
        score: ({ location }) => (location === undefined ? 0 : halfKm / (halfKm + kmTo(location))),
        measure({ location }) {
          if (location === undefined) return "place unknown";
          const km = Math.round(kmTo(location));
          return km < 1 ? "under 1 km away" : `${String(km)} km away`;
        },
        amount: ({ location }) => location && { value: kmTo(location), unit: "km" },
      };
    },
  };
}

/** Measures the shortest way over the ground (haversine formula: exact for points close together, too). */
export function greatCircle(from: GeoPoint): (to: GeoPoint) => number {
  const cosFrom = Math.cos(from.latitude * radians);
  return (to) => {
    const sinLatitude = Math.sin(((to.latitude - from.latitude) * radians) / 2);
    const sinLongitude = Math.sin(((to.longitude - from.longitude) * radians) / 2);
    const cosines = cosFrom * Math.cos(to.latitude * radians);
    const h = sinLatitude * sinLatitude + cosines * sinLongitude * sinLongitude;
    // Rounding can lift h a hair above 1 for opposite points.
    return 2 * earthRadiusKm * Math.asin(Math.min(1, Math.sqrt(h)));
  };
}
