/**
 * Which codec the next frame gets: the one with which the most of the hypervisor's bytes get through per second. The link
 * carries `link / ratio`, the threads code `threads * speed`, and the smaller of the two is what gets through; all three
 * are measured while the move runs. Peers that always compress lose on fast links, peers that never do on slow ones.
 */
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import type { Method } from "./codecs.ts";

export interface Estimate {
  /** Compressed bytes for each byte. */
  readonly ratio: number;
  /** Bytes that one thread codes per second. */
  readonly speed: number;
}

export interface Candidate extends Estimate {
  readonly method: Method;
}

/** Cheapest first; what they start from was measured on guests' memory, and is replaced by what is seen. */
const initial: readonly Candidate[] = [
  { method: { codec: Codec.NONE, level: 0 }, ratio: 1, speed: Infinity },
  { method: { codec: Codec.LZ4, level: 0 }, ratio: 0.57, speed: 500e6 },
  { method: { codec: Codec.ZSTD, level: 1 }, ratio: 0.44, speed: 300e6 },
  { method: { codec: Codec.ZSTD, level: 3 }, ratio: 0.42, speed: 150e6 },
];

/** A cheaper codec is good enough when so much of the best gets through. */
const goodEnough = { normal: 0.98, strong: 0.999 } as const;
/** Changes for less would follow the noise. */
const worthChanging = 1.04;
/** Another codec is tried on every so manieth block, to know what it would do now. */
const trialEvery = 24;
const weightOfNew = 0.3;

/** The best candidate's index. Pure; `linkRate` in bytes per second. */
export function chooseCandidate(
  candidates: readonly Candidate[],
  current: number,
  linkRate: number,
  threads: number,
  enough: number = goodEnough.normal,
): number {
  const through = candidates.map(({ ratio, speed }) => Math.min(linkRate / ratio, threads * speed));
  const best = Math.max(...through);
  const wanted = through.findIndex((rate) => rate >= enough * best);
  const gain = (through[wanted] ?? 0) / (through[current] ?? 1);
  const cheaper = wanted < current;
  return gain >= (cheaper ? 1 / worthChanging : worthChanging) || (cheaper && gain >= 1) ? wanted : current;
}

export interface Plan {
  readonly method: Method;
  /** To be tried as well, for what it tells. */
  readonly trial?: Method;
}

export class CodecChoice {
  readonly #threads: number;
  readonly #enough: number;
  readonly #candidates: Candidate[];
  #current: number;
  #blocks = 0;
  #trials = 0;

  /** @param codecs what the receiver can decode */
  constructor(options: { codecs: readonly Codec[]; threads: number; strong: boolean }) {
    this.#threads = options.threads;
    this.#enough = goodEnough[options.strong ? "strong" : "normal"];
    this.#candidates = initial.filter(
      ({ method }) => method.codec === Codec.NONE || options.codecs.includes(method.codec),
    );
    this.#current = Math.min(1, this.#candidates.length - 1);
  }

  /** @param linkRate undefined while it is not known */
  next(linkRate: number | undefined): Plan {
    if (linkRate !== undefined) {
      this.#current = chooseCandidate(this.#candidates, this.#current, linkRate, this.#threads, this.#enough);
    }
    const method = this.#methodAt(this.#current);
    if (this.#blocks++ % trialEvery !== 1 || this.#candidates.length < 3) return { method };
    const others = this.#candidates.filter(
      (candidate, index) => index !== this.#current && candidate.method.codec !== Codec.NONE,
    );
    const trial = others[this.#trials++ % others.length]?.method;
    return trial ? { method, trial } : { method };
  }

  /** What came of a block. */
  learn(method: Method, rawBytes: number, codedBytes: number, ms: number): void {
    const index = this.#candidates.findIndex((candidate) => same(candidate, method));
    const known = this.#candidates[index];
    if (!known || method.codec === Codec.NONE || rawBytes === 0) return;
    const mix = (old: number, seen: number) => old * (1 - weightOfNew) + seen * weightOfNew;
    const speed = (rawBytes * 1000) / Math.max(ms, 0.001);
    this.#candidates[index] = {
      method: known.method,
      ratio: mix(known.ratio, codedBytes / rawBytes),
      speed: 1 / mix(1 / known.speed, 1 / speed), // times add up, speeds do not
    };
  }

  #methodAt(index: number): Method {
    return this.#candidates[index]?.method ?? { codec: Codec.NONE, level: 0 };
  }
}

function same({ method }: Candidate, other: Method): boolean {
  return method.codec === other.codec && method.level === other.level;
}
