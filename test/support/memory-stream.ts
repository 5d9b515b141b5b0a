/** A memory stream as QEMU writes it before switch-over, made of given pages. */
export type StreamPage = Buffer | "zero";

const pageBytes = 4096;

/** Everything from the file header to a device's state, which is opaque; sections of `perSection` pages. */
export function memoryStream(pages: readonly StreamPage[], device: Buffer, perSection = 100): Buffer {
  const sections: StreamSection[] = [];
  for (let first = 0; first < pages.length; first += perSection) {
    const part = pages.slice(first, first + perSection).map((page, index) => [first + index, page] as const);
    sections.push({ "pc.ram": part });
  }
  return sectionStream({ "pc.ram": pages.length }, sections, device);
}

/** What a section says of each block of memory: pages by their numbers, in this order. */
export type StreamSection = Readonly<Record<string, readonly (readonly [number, StreamPage])[]>>;

/** The same of several blocks, with the pages that each has. */
export function sectionStream(
  blocks: Readonly<Record<string, number>>,
  sections: readonly StreamSection[],
  device: Buffer,
): Buffer {
  const parts: Buffer[] = [];
  const bytes = Object.values(blocks).reduce((sum, pages) => sum + pages * pageBytes, 0);
  parts.push(Buffer.from("QEVM"), u32(3));
  parts.push(u8(7), u32(10), Buffer.from("pc-q35-7.2"));
  parts.push(u8(8), u16(3), u16(2), Buffer.from([1, 2])); // a command
  parts.push(u8(1), u32(2), u8(3), Buffer.from("ram"), u32(0), u32(4), u64(bytes + 4));
  for (const [block, pages] of Object.entries(blocks)) parts.push(name(block), u64(pages * pageBytes));
  parts.push(u64(0x10), footer());
  for (const [index, section] of sections.entries()) {
    parts.push(u8(index === sections.length - 1 ? 3 : 2), u32(2));
    for (const [block, records] of Object.entries(section)) {
      for (const [place, [page, contents]] of records.entries()) {
        const flags = (contents === "zero" ? 2 : 8) | (place === 0 ? 0 : 0x20);
        parts.push(u64(page * pageBytes + flags));
        if (place === 0) parts.push(name(block));
        parts.push(contents === "zero" ? u8(0) : contents);
      }
    }
    parts.push(u64(0x10), footer());
  }
  parts.push(u8(4), device);
  return Buffer.concat(parts);
}

const u8 = (value: number) => Buffer.from([value]);
const u16 = (value: number) => Buffer.from([value >> 8, value & 0xff]);
function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}
const name = (text: string) => Buffer.concat([u8(text.length), Buffer.from(text)]);
const footer = () => Buffer.concat([u8(0x7e), u32(2)]);
