/**
 * Which codec the next frame gets: the one with which the most of the hypervisor's bytes get through per second. The link
 * carries `link / ratio`, the threads code `threads * speed`, and the smaller of the two is what should get through; all
 * three are measured while the move runs. Should: cores are shared with guests and with the network, and the other host
 * may be the slow one. So another codec is taken on trial, and kept only when more has really got through with it; but on
 * a link that is far slower than any codec, bytes are all that counts, and no trial is needed to know it.
 * Peers that always compress lose on fast links, peers that never do on slow ones.
 */
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import type { Method } from "./codecs.ts";
import type { LostOnTheWay } from "./lost-trials.ts";

export interface Estimate {
  /** Compressed bytes for each byte. */
  readonly ratio: number;
  /** Bytes that one thread codes per second. */
  readonly speed: number;
}

export interface Candidate extends Estimate {
  readonly method: Method;
  /** Its blocks are coded one after the other, by one thread. */
  readonly sequential?: boolean;
}

/** Hardly slower than lz4, with 40 % fewer bytes: what a guest's memory begins with. */
const quickLong: Method = { codec: Codec.ZSTD_LONG, level: -4 };

/** Cheapest first; what they start from was measured on guests' memory, and is replaced by what is seen. */
const initial: readonly Candidate[] = [
  { method: { codec: Codec.NONE, level: 0 }, ratio: 1, speed: Infinity },
  { method: { codec: Codec.LZ4, level: 0 }, ratio: 0.57, speed: 500e6 },
  { method: quickLong, ratio: 0.4, speed: 500e6, sequential: true },
  { method: { codec: Codec.ZSTD, level: 1 }, ratio: 0.44, speed: 300e6 },
  { method: { codec: Codec.ZSTD, level: 3 }, ratio: 0.42, speed: 150e6 },
  { method: { codec: Codec.ZSTD_LONG, level: 1 }, ratio: 0.33, speed: 300e6, sequential: true },
];

/** Shares of what gets through with the best; between the two nothing changes, so noise does not decide. */
export interface Margins {
  /** The cheapest candidate that gives so much is good enough, since CPU is scarcer than most links. */
  readonly comfortable: number;
  /** With less than this the present one has clearly lost. */
  readonly bearable: number;
}

const margins = {
  normal: { comfortable: 0.92, bearable: 0.8 },
  /** On a link that is far slower than any codec. */
  slow: { comfortable: 0.97, bearable: 0.96 },
  strong: { comfortable: 0.999, bearable: 0.96 },
} as const satisfies Record<string, Margins>;

/** A choice stands for so long, and twice as long after each trial: what keeps changing makes little difference. */
const dwell = { trialMs: 250, firstMs: 800, mostMs: 30_000 };
/** What has lost a trial is not tried again while so many choices stand: each trial costs time. */
const refusedForDwells = 8;
/** A link that carries so much of what it could is what everything waits for. */
const filling = 0.8;
/** With less than this share of what should get through, a cheaper codec may do better. */
const disappointing = 0.75;
/**
 * What a codec on trial has to get through, against the one before: more when it costs more CPU, or as much. What takes more
 * of a link that others may want has to be clearly quicker, and not only because the move has got into its stride.
 */
const worthwhile = { moreBytes: 1.2, dearer: 1.05, cheaper: 0.97 };
/** Fewer bytes than that do not count. */
const sameBytes = 1.05;
/** Another codec is tried on every so manieth block, to know what it would do now. */
const trialEvery = 32;
/**
 * How many blocks an estimate remembers; the first one replaces what was only assumed. Of what shrinks, the codec in use
 * sees every block, and a guest's memory has long stretches of each kind.
 */
const memoryBlocks = { inUse: 128, otherwise: 5 };
/** A codec that could do so many times what a link takes is not held up by cores. */
const ample = 4;
/**
 * With few cores fewer bytes at so much of the speed are better on any link: they are encrypted, carried and decrypted by the
 * same cores. What is seen of a codec on trial flatters it: its block has just been read by the one in use.
 */
const asQuick = 0.6;
/** Nor is it free there not to code: so many bytes per second one core brings into the network, as was measured. */
const uncodedSpeed = 430e6;
/** How much less is believed, each time a choice stands, of what was seen of a codec that cannot be tried on a block. */
const forgetting = 0.1;
/** A block that took longer tells mostly that its thread had to wait for a core, which would slow the others as well. */
const weightOfSlower = 0.02;

/** The index of the candidate to use from now on. Pure; `linkRate` in bytes per second. */
export function chooseCandidate(
  candidates: readonly Candidate[],
  current: number,
  linkRate: number,
  threads: number,
  { comfortable, bearable }: Margins = margins.normal,
): number {
  const through = candidates.map((candidate, index) =>
    isOutdone(candidates, index, threads) ? 0 : expectedRate(candidate, linkRate, threads),
  );
  const best = Math.max(...through);
  const wanted = through.findIndex((rate) => rate >= comfortable * best);
  const lost = (through[current] ?? 0) < bearable * best;
  return wanted < current || lost ? wanted : current;
}

/** Another is about as quick, and leaves fewer bytes, on a host that has cores for one thread only. */
function isOutdone(candidates: readonly Candidate[], index: number, threads: number): boolean {
  const one = candidates[index];
  if (!one || threads > 1) return false;
  const quick = asQuick * (one.method.codec === Codec.NONE ? uncodedSpeed : one.speed);
  return candidates.some(({ ratio, speed }) => ratio < one.ratio / sameBytes && speed >= quick);
}

function expectedRate({ ratio, speed, sequential }: Candidate, linkRate: number, threads: number): number {
  return Math.min(linkRate / ratio, (sequential ? 1 : threads) * speed);
}

export interface Plan {
  readonly method: Method;
  /** To be tried as well, for what it tells. */
  readonly trial?: Method;
}

/** How much of the hypervisor's bytes got through with a candidate, per second. */
interface Passed {
  readonly index: number;
  readonly rate: number;
}

export class CodecChoice {
  readonly #threads: number;
  /** Bytes are dear: the fewest are wanted even if less gets through. */
  readonly #strong: boolean;
  readonly #candidates: Candidate[];
  readonly #seen: number[];
  #current: number;
  /** Another codec was chosen, and no block of it has left. */
  #changing = false;
  #blocks = 0;
  #trials = 0;
  #dwellMs = dwell.firstMs;
  /** What there was before the codec that is on trial. */
  #before: Passed | undefined;
  /** What has won its trial at the cost of more bytes. The one before is looked at once more: the move may just have got quicker. */
  #winner: Passed | undefined;
  /** Of each candidate: when it may be tried again after it has lost a trial. */
  readonly #refusedUntil: number[];
  /** What has lost, for other moves to the same host. */
  readonly #lost: LostOnTheWay | undefined;
  readonly #now: () => number;
  readonly #flow: Flow;

  /** @param options.codecs what the receiver can decode */
  constructor(options: {
    readonly codecs: readonly Codec[];
    readonly threads: number;
    readonly strong: boolean;
    readonly lost?: LostOnTheWay | undefined;
    readonly now?: () => number;
  }) {
    this.#threads = options.threads;
    this.#strong = options.strong;
    this.#lost = options.lost;
    this.#now = options.now ?? (() => performance.now());
    this.#flow = new Flow(this.#now);
    this.#candidates = initial.filter(
      ({ method }) => method.codec === Codec.NONE || options.codecs.includes(method.codec),
    );
    this.#seen = this.#candidates.map(() => 0);
    // What another move has seen lose counts as if this one had.
    const again = this.#now() + refusedForDwells * 2 * dwell.firstMs;
    this.#refusedUntil = this.#candidates.map(({ method }) => (options.lost?.has(method) ? again : 0));
    const first = this.#candidates.findIndex(({ method }) => method === quickLong);
    this.#current = first > 0 ? first : Math.min(1, this.#candidates.length - 1);
  }

  /** @param linkRate undefined while it is not known */
  next(linkRate: number | undefined): Plan {
    this.#flow.begin();
    this.#choose(linkRate);
    const method = this.#methodAt(this.#current);
    if (this.#blocks++ % trialEvery !== 1 || this.#candidates.length < 3) return { method };
    // What goes on from block to block cannot be tried on a block that then goes another way.
    const others = this.#candidates.filter(
      ({ method: { codec }, sequential }, index) =>
        index !== this.#current && codec !== Codec.NONE && !sequential,
    );
    const trial = others[this.#trials++ % others.length]?.method;
    return trial ? { method, trial } : { method };
  }

  /** So many of the hypervisor's bytes have left, as one block that {@link next} gave this codec. */
  sent(rawBytes: number, codec: Codec): void {
    this.#flow.end(rawBytes);
    if (!this.#changing || codec !== this.#methodAt(this.#current).codec) return;
    this.#changing = false;
    this.#flow.restart();
  }

  /** What came of a block. */
  learn(method: Method, rawBytes: number, codedBytes: number, ms: number): void {
    const index = this.#candidates.findIndex((candidate) => same(candidate, method));
    const known = this.#candidates[index];
    if (!known || method.codec === Codec.NONE || rawBytes === 0) return;
    const seenBlocks = (this.#seen[index] ?? 0) + 1;
    this.#seen[index] = seenBlocks;
    const { inUse, otherwise } = memoryBlocks;
    const mix = (old: number, seen: number, weight: number) => old + (seen - old) * weight;
    const speed = (rawBytes * 1000) / Math.max(ms, 0.001);
    const ratioWeight = 1 / Math.min(seenBlocks, index === this.#current ? inUse : otherwise);
    const isSlower = speed < known.speed && seenBlocks > 1;
    const speedWeight = isSlower ? weightOfSlower : 1 / Math.min(seenBlocks, otherwise);
    this.#candidates[index] = {
      ...known,
      ratio: mix(known.ratio, codedBytes / rawBytes, ratioWeight),
      speed: 1 / mix(1 / known.speed, 1 / speed, speedWeight), // times add up, speeds do not
    };
    if (known.sequential) this.#learnFromKin(index);
  }

  /** What cannot be tried on the same block is taken to shrink as much better or worse as was assumed. */
  #learnFromKin(index: number): void {
    const [seen, assumed] = [this.#candidates[index], assumedRatio(this.#candidates[index])];
    this.#candidates.forEach((candidate, other) => {
      if (!seen || !candidate.sequential || other === index) return;
      const ratio = (seen.ratio * assumedRatio(candidate)) / assumed;
      this.#candidates[other] = { ...candidate, ratio };
    });
  }

  #choose(linkRate: number | undefined): void {
    if (linkRate === undefined || this.#changing) return;
    if (this.#flow.ms < ((this.#before ?? this.#winner) ? dwell.trialMs : this.#dwellMs)) return;
    const { rate } = this.#flow;
    this.#flow.restart();
    this.#forget();
    if (rate === undefined) return;
    const [before, winner, current] = [this.#before, this.#winner, this.#current];
    this.#before = this.#winner = undefined;
    if (before) {
      this.#dwellMs = Math.min(dwell.mostMs, 2 * this.#dwellMs);
      const won = rate >= this.#least(before.index, current) * before.rate;
      if (!won) this.#refuse(current);
      else if (this.#takesMore(before.index, current)) this.#winner = { index: current, rate };
      if (!won || this.#winner) this.#use(before.index);
      return;
    }
    if (winner) {
      if (winner.rate >= this.#least(current, winner.index) * rate) this.#use(winner.index);
      else this.#refuse(winner.index);
      return;
    }
    const kind = this.#strong ? "strong" : this.#isSlow(linkRate) ? "slow" : "normal";
    this.#use(this.#wanted(linkRate, rate, kind));
    if (this.#current !== current && kind === "normal") this.#before = { index: current, rate };
  }

  #refuse(index: number): void {
    this.#refusedUntil[index] = this.#now() + refusedForDwells * this.#dwellMs;
    this.#lost?.add(this.#methodAt(index));
  }

  #use(index: number): void {
    this.#changing = index !== this.#current;
    this.#current = index;
  }

  /** Even what leaves the fewest bytes could be coded far faster than they leave. */
  #isSlow(linkRate: number): boolean {
    const [least] = [...this.#candidates].sort((one, other) => one.ratio - other.ratio);
    return !!least && expectedRate(least, Infinity, this.#threads) >= (ample * linkRate) / least.ratio;
  }

  #forget(): void {
    if (this.#candidates[this.#current]?.sequential) return;
    this.#candidates.forEach((candidate, index) => {
      if (!candidate.sequential) return;
      const ratio = candidate.ratio + (assumedRatio(candidate) - candidate.ratio) * forgetting;
      this.#candidates[index] = { ...candidate, ratio };
    });
  }

  #wanted(linkRate: number, rate: number, kind: keyof typeof margins): number {
    const [candidates, current, threads] = [this.#candidates, this.#current, this.#threads];
    const present = candidates[current];
    const wanted = chooseCandidate(candidates, current, linkRate, threads, margins[kind]);
    if (kind !== "normal") return wanted;
    // Fewer bytes are no help where it is not the link that holds them up.
    const isLinkFull = rate >= (filling * linkRate) / (present?.ratio ?? 1);
    if (wanted !== current && this.#mayTry(wanted) && (wanted < current || isLinkFull)) return wanted;
    const expected = present ? expectedRate(present, linkRate, threads) : linkRate;
    const cheaper = candidates.findLastIndex(
      (_, index) => index < current && !isOutdone(candidates, index, threads),
    );
    if (cheaper < 0 || rate >= disappointing * expected || !this.#mayTry(cheaper)) return current;
    // What the link alone would hold up needs no trial.
    const most = linkRate / (candidates[cheaper]?.ratio ?? 1);
    return most > this.#least(current, cheaper) * rate ? cheaper : current;
  }

  #mayTry(index: number): boolean {
    return this.#now() >= (this.#refusedUntil[index] ?? 0);
  }

  #least(before: number, next: number): number {
    if (this.#takesMore(before, next)) return worthwhile.moreBytes;
    return before < next ? worthwhile.dearer : worthwhile.cheaper;
  }

  #takesMore(before: number, next: number): boolean {
    const ratioAt = (index: number) => this.#candidates[index]?.ratio ?? 1;
    return ratioAt(next) > sameBytes * ratioAt(before);
  }

  #methodAt(index: number): Method {
    return this.#candidates[index]?.method ?? { codec: Codec.NONE, level: 0 };
  }
}

function assumedRatio(candidate: Candidate | undefined): number {
  return initial.find((one) => candidate && same(one, candidate.method))?.ratio ?? 1;
}

function same({ method }: Candidate, other: Method): boolean {
  return method.codec === other.codec && method.level === other.level;
}

/** How much gets through while more waits than one block; what comes in drops tells nothing of the codec. */
class Flow {
  readonly #now: () => number;
  #startedAt: number;
  #outstanding = 0;
  #busySince: number | undefined;
  #busyMs = 0;
  #bytes = 0;

  constructor(now: () => number) {
    this.#now = now;
    this.#startedAt = now();
  }

  begin(): void {
    if (++this.#outstanding === 2) this.#busySince = this.#now();
  }

  end(rawBytes: number): void {
    if (this.#busySince !== undefined) this.#bytes += rawBytes;
    if (--this.#outstanding >= 2 || this.#busySince === undefined) return;
    this.#busyMs += this.#now() - this.#busySince;
    this.#busySince = undefined;
  }

  restart(): void {
    this.#startedAt = this.#now();
    if (this.#busySince !== undefined) this.#busySince = this.#startedAt;
    this.#busyMs = this.#bytes = 0;
  }

  /** Since the last restart. */
  get ms(): number {
    return this.#now() - this.#startedAt;
  }

  /** Bytes per second; undefined when for most of the time too little waited. */
  get rate(): number | undefined {
    const now = this.#now();
    const busyMs = this.#busyMs + (this.#busySince === undefined ? 0 : now - this.#busySince);
    return busyMs > this.ms / 2 ? (this.#bytes * 1000) / busyMs : undefined;
  }
}
