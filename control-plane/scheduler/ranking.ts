import type { HostSnapshot } from "./snapshot.ts";

export interface Ranked {
  readonly host: HostSnapshot;
  readonly score: number;
  readonly tieBreak: number;
}

export interface Ranking {
  /** @param idHash `hashId(host.id)`, from whoever has it already */
  offer(host: HostSnapshot, score: number, idHash?: number): void;
  /** A host that scores less than this is not among the best; -1 while any is. */
  readonly least: number;
  /** Best first. */
  readonly best: readonly Ranked[];
}

/**
 * Keeps the best `limit` hosts of those offered, in whatever order they come. Equal scores are ordered
 * by a hash of seed and id: the same seed gives the same order, different seeds spread over the hosts,
 * so that many placements at once do not all run to one.
 */
export function createRanking(limit: number, seed: string): Ranking {
  const best: Ranked[] = [];
  const seeded = hashId(seed);
  return {
    best,
    get least() {
      return best[limit - 1]?.score ?? -1;
    },
    offer(host, score, idHash = hashId(host.id)) {
      const last = best[limit - 1];
      if (last !== undefined && score < last.score) return;
      const tieBreak = scramble(scramble(idHash) ^ seeded);
      if (last !== undefined && !isBetter(host, score, tieBreak, last)) return;
      let place = Math.min(best.length, limit - 1);
      for (; place > 0; place--) {
        const above = best[place - 1];
        if (above === undefined || !isBetter(host, score, tieBreak, above)) break;
        best[place] = above;
      }
      best[place] = { host, score, tieBreak };
    },
  };
}

function isBetter(host: HostSnapshot, score: number, tieBreak: number, than: Ranked): boolean {
  if (score !== than.score) return score > than.score;
  if (tieBreak !== than.tieBreak) return tieBreak < than.tieBreak;
  return host.id < than.host.id;
}

const offsetBasis = 0x811c9dc5;

/** FNV-1a, 32 bits. */
export function hashId(text: string): number {
  let h = offsetBasis;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return h;
}

/** Spreads the last characters over all bits; ids often differ in those alone. */
function scramble(h: number): number {
  let x = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}
