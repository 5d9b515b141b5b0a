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

/** Reads what it needs at `at`; says how many bytes to skip after it and what comes then. */
type Step = (bytes: Buffer, at: number) => void;

export interface Cut {
  /** How long the block is. What was scanned beyond is the beginning of a page whose end has not been read yet. */
  readonly bytes: number;
  /** Offsets of whole pages in the block. */
  readonly pages: Uint32Array;
  readonly zeroBytes: number;
}

export class PageScanner {
  /** Of the first byte that was not scanned, since the stream's beginning; and of the block's first. */
  #offset = 0;
  #blockStart = 0;
  #pages: number[] = [];
  #zeroPages = 0;
  /** Where the page begins that ends beyond what was scanned. */
  #openPage: number | undefined;
  #skipBytes = 0;
  #needBytes = 8;
  #step: Step | undefined = this.#fileHeader;
  readonly #scratch = Buffer.alloc(16);
  #scratchBytes = 0;
  #ramId: number | undefined;
  #sizesLeft = 0;

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
        if (this.#skipBytes === 0) this.#openPage = undefined;
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
   * @param all also a page that is not complete
   */
  cut(all: boolean): Cut {
    const end = all ? this.#offset : Math.max(this.#openPage ?? this.#offset, this.#blockStart);
    const bytes = end - this.#blockStart;
    const pages = this.#pages
      .filter((start) => start + pageBytes <= end)
      .map((start) => start - this.#blockStart);
    const zeroBytes = this.#zeroPages * pageBytes;
    this.#pages = this.#pages.filter((start) => start + pageBytes > end && start >= end);
    this.#zeroPages = 0;
    this.#blockStart = end;
    return { bytes, pages: Uint32Array.from(pages), zeroBytes };
  }

  #then(step: Step, needBytes: number, skipBytes = 0): void {
    this.#step = step;
    this.#needBytes = needBytes;
    this.#skipBytes = skipBytes;
  }

  #leaveAlone(): void {
    this.#step = undefined;
    this.#openPage = undefined;
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
    const named = (flags & flag.sameBlock) === 0;
    switch (flags & ~flag.sameBlock) {
      case flag.page:
        if (named) this.#then(this.#pageName, 1);
        else this.#page(0);
        return;
      case flag.zero:
        this.#zeroPages++;
        if (named) this.#then(this.#zeroName, 1);
        else this.#then(this.#ramHeader, 8, 1);
        return;
      case flag.sizes:
        this.#sizesLeft = bytes.readUInt32BE(at) * 2 ** 32 + (low - flags);
        return this.#then(this.#blockName, 1);
      case flag.end:
        return this.#then(this.#sectionFooter, 5);
      default:
        return this.#leaveAlone();
    }
  }

  #pageName(bytes: Buffer, at: number): void {
    this.#page(bytes[at] ?? 0);
  }

  #zeroName(bytes: Buffer, at: number): void {
    this.#then(this.#ramHeader, 8, (bytes[at] ?? 0) + 1);
  }

  #page(nameBytes: number): void {
    const start = this.#position + nameBytes;
    this.#pages.push(start);
    this.#openPage = start;
    this.#then(this.#ramHeader, 8, nameBytes + pageBytes);
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
