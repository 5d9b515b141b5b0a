/** What a move has carried so far, as one host saw it: the figures of `MoveStatus`. */
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import { isDisk } from "./protocol.ts";

export const codecNames = {
  [Codec.NONE]: "none",
  [Codec.LZ4]: "lz4",
  [Codec.ZSTD]: "zstd",
  [Codec.ZSTD_LONG]: "zstd-long",
} as const;
export type CodecName = (typeof codecNames)[Codec];

export interface MoveStats {
  readonly bytes: {
    readonly memoryRaw: number;
    readonly memoryZero: number;
    readonly memoryInImage: number;
    readonly memoryWire: number;
    readonly diskRaw: number;
    readonly diskWire: number;
  };
  /** Chosen at the source at present, for memory once it moves; the destination takes what comes and says none. */
  readonly codec: CodecName;
  /** The first changes, in milliseconds since the move began here. */
  readonly codecHistory: readonly { readonly codec: CodecName; readonly atMs: number }[];
  /** Bytes per second on the wire, over about the last second. */
  readonly throughput: number;
  /** Pages are being looked up in the image. */
  readonly pageStage: boolean;
  readonly corruptFrames: number;
  readonly reconnects: number;
  /** CPU time of this process since the move began. */
  readonly cpuSeconds: number;
}

export interface FrameCount {
  readonly rawBytes: number;
  readonly wireBytes: number;
  readonly zeroBytes?: number;
  readonly inImageBytes?: number;
}

/** Over which throughput is measured, and how often it is looked at. */
const throughputWindowMs = 1000;
const historyLimit = 32;

export class MoveCounters {
  readonly #startedAt: number;
  readonly #cpuBefore = process.cpuUsage();
  readonly #now: () => number;
  readonly #bytes = { memoryRaw: 0, memoryZero: 0, memoryInImage: 0, memoryWire: 0, diskRaw: 0, diskWire: 0 };
  readonly #history: { codec: CodecName; atMs: number }[] = [];
  readonly #recent: { atMs: number; wireBytes: number }[] = [];
  #codec: CodecName | undefined;
  #memoryBegun = false;
  pageStage = false;
  corruptFrames = 0;
  reconnects = 0;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#startedAt = now();
  }

  count(channel: string, frame: FrameCount): void {
    const bytes = this.#bytes;
    if (isDisk(channel)) {
      bytes.diskRaw += frame.rawBytes;
      bytes.diskWire += frame.wireBytes;
    } else {
      bytes.memoryRaw += frame.rawBytes;
      bytes.memoryWire += frame.wireBytes;
      bytes.memoryZero += frame.zeroBytes ?? 0;
      bytes.memoryInImage += frame.inImageBytes ?? 0;
    }
    this.#remember(frame.wireBytes);
  }

  /** What memory gets, once there is some: disks have choices of their own, and two told as one would look restless. */
  useCodec(channel: string, codec: Codec): void {
    if (isDisk(channel) && this.#memoryBegun) return;
    this.#memoryBegun = !isDisk(channel);
    const name = codecNames[codec];
    if (this.#codec === name) return;
    this.#codec = name;
    if (this.#history.length >= historyLimit) return;
    this.#history.push({ codec: name, atMs: Math.round(this.#now() - this.#startedAt) });
  }

  snapshot(): MoveStats {
    const { user, system } = process.cpuUsage(this.#cpuBefore);
    const { pageStage, corruptFrames, reconnects } = this;
    return {
      bytes: { ...this.#bytes },
      codec: this.#codec ?? "none",
      codecHistory: [...this.#history],
      throughput: this.#throughput(),
      cpuSeconds: (user + system) / 1e6,
      ...{ pageStage, corruptFrames, reconnects },
    };
  }

  /** One entry per tenth of the window is precise enough, however many frames there are. */
  #remember(wireBytes: number): void {
    const atMs = this.#now();
    const last = this.#recent.at(-1);
    if (last && atMs - last.atMs < throughputWindowMs / 10) last.wireBytes += wireBytes;
    else this.#recent.push({ atMs, wireBytes });
    this.#forget(atMs);
  }

  #forget(now: number): void {
    const oldest = now - throughputWindowMs;
    while (this.#recent.length > 0 && (this.#recent[0]?.atMs ?? 0) < oldest) this.#recent.shift();
  }

  #throughput(): number {
    const now = this.#now();
    this.#forget(now);
    const spanMs = Math.min(throughputWindowMs, now - this.#startedAt);
    const bytes = this.#recent.reduce((sum, { wireBytes }) => sum + wireBytes, 0);
    return spanMs > 0 ? Math.round((bytes * 1000) / spanMs) : 0;
  }
}
