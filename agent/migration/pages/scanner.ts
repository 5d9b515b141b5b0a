/**
 * Finds whole pages in the memory stream that QEMU writes before switch-over, without holding it up: only the headers
 * are read. From the first thing that is not known here to the end, the stream is left alone; so a mistake can cost
 * bytes but never a page. The stream, version 3, big-endian:
 *
 *     "QEVM" u32 version · 07 configuration: u32 length, machine type · then sections, each ended by 7e and its u32 id:
 *     01 start: u32 id, name (u8 length), u32 instance, u32 version, body      02 part, 03 end: u32 id, body
 *     08 command: u16 command, u16 length, data                                04 full: devices; opaque from here on
 *
 * A body of section "ram" is a row of u64 `address | flags`: 04 sizes of the blocks follow, 02 a page of one byte,
 * 08 a page as it is, 10 the end; the block's name follows unless 20 says "the same as before".
 */
export const pageBytes = 4096;

const flag = { zero: 0x02, sizes: 0x04, page: 0x08, end: 0x10, sameBlock: 0x20 } as const;
const section = {
  start: 0x01,
  part: 0x02,
  end: 0x03,
  configuration: 0x07,
  command: 0x08,
  footer: 0x7e,
} as const;
const magic = 0x5145564d;
const streamVersion = 3;

type Writable<T> = { -readonly [Key in keyof T]: T[Key] };

/** Reads what it needs at `at`; says how many bytes to skip after it and what comes then. */
type Step = (bytes: Buffer, at: number) => void;

export interface Cut {
  /** How long the block is. What was scanned beyond is the beginning of a record whose end has not been read yet. */
  readonly bytes: number;
  readonly runs: readonly PageRun[];
  /** Pages come by that, since the stream's beginning, may have come by before. */
  readonly again: boolean;
  readonly zeroBytes: number;
}

/** Records of pages that follow each other in the block and in memory: a head and a body each, only the first's head has a name. */
export interface PageRun {
  /** In the block. */
  readonly offset: number;
  readonly firstHeadBytes: number;
  /** A whole page, or one byte for a page of zeros. */
  readonly bodyBytes: number;
  readonly firstPage: number;
  readonly count: number;
}

/** Of a record that does not name its block of memory. */
export const headBytes = 8;

export class PageScanner {
  /** Undefined: records of all blocks are found. */
  readonly #only: string | undefined;
  /** Of the first byte that was not scanned, since the stream's beginning; and of the block's first. */
  #offset = 0;
  #blockStart = 0;
  #runs: Writable<PageRun>[] = [];
  #lastPage = -1;
  #again = false;
  #zeroPages = 0;
  /** The record that ends beyond what was scanned. */
  #record:
    { readonly start: number; readonly page: number; headBytes: number; bodyBytes: number } | undefined;
  #skipBytes = 0;
  #needBytes = 8;
  #step: Step | undefined = this.#fileHeader;
  readonly #scratch = Buffer.alloc(255);
  #scratchBytes = 0;
  #ramId: number | undefined;
  #sizesLeft = 0;
  /** The record's block of memory is one whose records are wanted. */
  #wanted: boolean;
  #isLost = false;

  /** @param only the name of the block of memory whose records are found; default: all */
  constructor(only?: string) {
    this.#only = only;
    this.#wanted = only === undefined;
  }

  /**
   * Among records of which some were taken out came one that is not known: it may lean on the name that one of those had, so
   * what is left makes no sense to a hypervisor.
   */
  get isLost(): boolean {
    return this.#isLost;
  }

  /** False once the stream is left alone. */
  get scanning(): boolean {
    return this.#step !== undefined;
  }

  scan(piece: Buffer): void {
    let at = 0;
    while (at < piece.length && this.#step) {
      const left = piece.length - at;
      if (this.#skipBytes > 0) {
        const skipped = Math.min(this.#skipBytes, left);
        this.#skipBytes -= skipped;
        at += skipped;
        if (this.#skipBytes === 0) this.#endRecord();
      } else if (this.#scratchBytes === 0 && left >= this.#needBytes) {
        const from = at;
        at += this.#needBytes;
        this.#position = this.#offset + at;
        this.#step(piece, from);
      } else {
        const taken = Math.min(this.#needBytes - this.#scratchBytes, left);
        piece.copy(this.#scratch, this.#scratchBytes, at, at + taken);
        this.#scratchBytes += taken;
        at += taken;
        if (this.#scratchBytes === this.#needBytes) {
          this.#scratchBytes = 0;
          this.#position = this.#offset + at;
          this.#step(this.#scratch, 0);
        }
      }
    }
    this.#offset += piece.length;
  }
  /** Of the byte after those that the present step was given. */
  #position = 0;

  /**
   * Ends a block with what was scanned since the last one's end.
   * @param all also a record that is not complete
   */
  cut(all: boolean): Cut {
    // A record's head may have been read in part, or in whole.
    const inHead = this.#step === this.#ramHeader && this.#skipBytes === 0 ? this.#scratchBytes : 0;
    const end = all ? this.#offset : (this.#record?.start ?? this.#offset - inHead);
    const [start, zeroBytes] = [this.#blockStart, this.#zeroPages * pageBytes];
    const runs = this.#runs.map((run) => ({ ...run, offset: run.offset - start }));
    const again = this.#again;
    this.#runs = [];
    this.#again = false;
    this.#zeroPages = 0;
    this.#blockStart = end;
    return { bytes: end - start, runs, again, zeroBytes };
  }

  /** Adds it to the run that it goes on with, or begins another. */
  #endRecord(): void {
    const record = this.#record;
    this.#record = undefined;
    if (!record) return;
    const { start, page, bodyBytes } = record;
    if (bodyBytes < pageBytes) this.#zeroPages++;
    if (!this.#wanted) return;
    this.#again ||= page <= this.#lastPage;
    this.#lastPage = page;
    const run = this.#runs.at(-1);
    const goesOn =
      run?.bodyBytes === bodyBytes && record.headBytes === headBytes && run.firstPage + run.count === page;
    if (goesOn && runEnd(run) === start) run.count++;
    else
      this.#runs.push({
        offset: start,
        firstHeadBytes: record.headBytes,
        bodyBytes,
        firstPage: page,
        count: 1,
      });
  }

  #then(step: Step, needBytes: number, skipBytes = 0): void {
    this.#step = step;
    this.#needBytes = needBytes;
    this.#skipBytes = skipBytes;
  }

  #leaveAlone(): void {
    this.#step = undefined;
    this.#record = undefined;
  }

  #fileHeader(bytes: Buffer, at: number): void {
    const known = bytes.readUInt32BE(at) === magic && bytes.readUInt32BE(at + 4) === streamVersion;
    if (known) this.#then(this.#sectionType, 1);
    else this.#leaveAlone();
  }

  #sectionType(bytes: Buffer, at: number): void {
    switch (bytes[at] ?? 0) {
      case section.configuration:
        return this.#then(this.#configuration, 4);
      case section.start:
        return this.#then(this.#sectionStart, 5);
      case section.part:
      case section.end:
        return this.#then(this.#sectionPart, 4);
      case section.command:
        return this.#then(this.#command, 4);
      default:
        return this.#leaveAlone();
    }
  }

  #configuration(bytes: Buffer, at: number): void {
    this.#then(this.#sectionType, 1, bytes.readUInt32BE(at));
  }

  #command(bytes: Buffer, at: number): void {
    this.#then(this.#sectionType, 1, bytes.readUInt16BE(at + 2));
  }

  /** Only RAM is known among the sections that go in parts. */
  #sectionStart(bytes: Buffer, at: number): void {
    this.#ramId = bytes.readUInt32BE(at);
    if (bytes[at + 4] === 3) this.#then(this.#sectionName, 11);
    else this.#leaveAlone();
  }

  #sectionName(bytes: Buffer, at: number): void {
    if (bytes.toString("latin1", at, at + 3) === "ram") this.#then(this.#ramHeader, 8);
    else this.#leaveAlone();
  }

  #sectionPart(bytes: Buffer, at: number): void {
    if (bytes.readUInt32BE(at) === this.#ramId) this.#then(this.#ramHeader, 8);
    else this.#leaveAlone();
  }

  #sectionFooter(bytes: Buffer, at: number): void {
    const sound = bytes[at] === section.footer && bytes.readUInt32BE(at + 1) === this.#ramId;
    if (sound) this.#then(this.#sectionType, 1);
    else this.#leaveAlone();
  }

  #ramHeader(bytes: Buffer, at: number): void {
    const low = bytes.readUInt32BE(at + 4);
    const flags = low & (pageBytes - 1);
    const kind = flags & ~flag.sameBlock;
    if (kind === flag.page || kind === flag.zero) {
      const page = (bytes.readUInt32BE(at) * 2 ** 32 + (low - flags)) / pageBytes;
      const bodyBytes = kind === flag.page ? pageBytes : 1;
      this.#record = { start: this.#position - headBytes, page, headBytes, bodyBytes };
      if (flags === kind) this.#then(this.#nameLength, 1);
      else this.#then(this.#ramHeader, headBytes, bodyBytes);
    } else if (flags === flag.sizes) {
      this.#sizesLeft = bytes.readUInt32BE(at) * 2 ** 32 + (low - flags);
      this.#then(this.#blockName, 1);
    } else if (flags === flag.end) this.#then(this.#sectionFooter, 5);
    else {
      this.#isLost = this.#only !== undefined;
      this.#leaveAlone();
    }
  }

  #nameLength(bytes: Buffer, at: number): void {
    const length = bytes[at] ?? 0;
    if (length === 0) this.#leaveAlone();
    else this.#then(this.#name, length);
  }

  #name(bytes: Buffer, at: number): void {
    const record = this.#record;
    if (!record) return this.#leaveAlone();
    const length = this.#needBytes;
    this.#wanted = this.#only === undefined || bytes.toString("latin1", at, at + length) === this.#only;
    record.headBytes += 1 + length;
    this.#then(this.#ramHeader, headBytes, record.bodyBytes);
  }

  #blockName(bytes: Buffer, at: number): void {
    this.#then(this.#blockSize, 8, bytes[at]);
  }

  #blockSize(bytes: Buffer, at: number): void {
    this.#sizesLeft -= Number(bytes.readBigUInt64BE(at));
    if (this.#sizesLeft > 0) this.#then(this.#blockName, 1);
    else if (this.#sizesLeft === 0) this.#then(this.#ramHeader, 8);
    else this.#leaveAlone();
  }
}

/** Where in its block a run ends. */
function runEnd({ offset, firstHeadBytes, bodyBytes, count }: PageRun): number {
  return offset + firstHeadBytes + count * bodyBytes + (count - 1) * headBytes;
}
