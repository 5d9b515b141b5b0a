/** A memory stream as QEMU writes it before switch-over, made of given pages. */
export type StreamPage = Buffer | "zero";

const pageBytes = 4096;

/** Everything from the file header to a device's state, which is opaque; sections of `perSection` pages. */
export function memoryStream(pages: readonly StreamPage[], device: Buffer, perSection = 100): Buffer {
  const parts: Buffer[] = [];
  const ram = pages.length * pageBytes;
  parts.push(Buffer.from("QEVM"), u32(3));
  parts.push(u8(7), u32(10), Buffer.from("pc-q35-7.2"));
  parts.push(u8(8), u16(3), u16(2), Buffer.from([1, 2])); // a command
  parts.push(u8(1), u32(2), u8(3), Buffer.from("ram"), u32(0), u32(4));
  parts.push(u64(ram | 4), name("pc.ram"), u64(ram), u64(0x10), footer());
  for (let first = 0; first < pages.length; first += perSection) {
    const last = first + perSection >= pages.length;
    parts.push(u8(last ? 3 : 2), u32(2));
    for (const [index, page] of pages.slice(first, first + perSection).entries()) {
      const flags = (page === "zero" ? 2 : 8) | (index === 0 ? 0 : 0x20);
      parts.push(u64((first + index) * pageBytes + flags));
      if (index === 0) parts.push(name("pc.ram"));
      parts.push(page === "zero" ? u8(0) : page);
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
