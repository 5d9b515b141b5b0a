/**
 * Why a placement came out as it did. Stored with the instance and shown to its owner, so it stays
 * small however many hosts there are, and it accounts for each of them:
 * `hosts` = `eligible` + the counts in `rejected`. The types are aliases because interfaces are not Json.
 */

export type Explanation = {
  readonly seed: string;
  /** How many there were. */
  readonly hosts: number;
  /** How many passed every filter. */
  readonly eligible: number;
  /** By the filter that was the first to refuse them. */
  readonly rejected: readonly Rejection[];
  /** The best of the eligible, best first; never more than ten. */
  readonly best: readonly ScoredHost[];
};

export type Rejection = {
  readonly code: string;
  /** Reads on from the count: "full". */
  readonly verdict: string;
  readonly count: number;
  /** The one that came nearest to passing, as the example of them all. */
  readonly nearest: { readonly host_id: string; readonly reason: string };
};

export type ScoredHost = {
  readonly host_id: string;
  readonly provider: string;
  readonly region: string;
  /** 0 to 1: the mean of the parts by their weights. */
  readonly score: number;
  readonly parts: readonly ScorePart[];
};

export type ScorePart = {
  readonly scorer: string;
  readonly weight: number;
  readonly score: number;
  readonly measure: string;
  /** The same as a number; null when it is not known. */
  readonly amount: number | null;
  readonly unit: string;
};

/**
 * The explanation in a sentence, such as "0.070 USD/h, 12 km away, 35 % full; 3 hosts rejected: 2 full
 * (memory: 1.0 GiB short), 1 cordoned".
 * @param hostId the host that was taken in the end, if not the best
 */
export function summarise(explanation: Explanation, hostId?: string): string {
  const { hosts, eligible, best } = explanation;
  if (hosts === 0) return "there are no hosts";
  const rejected = hosts - eligible;
  const reasons = explanation.rejected.map(describeRejection).join(", ");
  if (eligible === 0) return `none of ${countHosts(hosts)} will do: ${reasons}`;

  const taken = hostId === undefined ? best[0] : best.find((host) => host.host_id === hostId);
  const measures = taken?.parts.map((part) => part.measure) ?? [];
  const merit = measures.length > 0 ? measures.join(", ") : `one of ${countHosts(eligible)} that will do`;
  return rejected === 0 ? merit : `${merit}; ${countHosts(rejected)} rejected: ${reasons}`;
}

function describeRejection({ count, verdict, nearest }: Rejection): string {
  const why = nearest.reason === verdict ? "" : ` (${nearest.reason})`;
  return `${String(count)} ${verdict}${why}`;
}

function countHosts(count: number): string {
  return count === 1 ? "1 host" : `${String(count)} hosts`;
}
