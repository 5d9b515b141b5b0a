/** One-time codes of RFC 6238 as authenticator apps make them: SHA-1, 30 seconds, six digits. */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";

const stepMs = 30_000;
const digits = 6;
const secretBytes = 20;
/** Steps that a clock may be off. */
const drift = 1;
const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/** A new secret in base 32. */
export function newTotpSecret(): string {
  return [...randomBytes(secretBytes)].reduce(
    ({ text, bits, value }, byte) => {
      let held = (value << 8) | byte;
      let count = bits + 8;
      let out = text;
      for (; count >= 5; count -= 5) out += alphabet.charAt((held >> (count - 5)) & 31);
      held &= (1 << count) - 1;
      return { text: out, bits: count, value: held };
    },
    { text: "", bits: 0, value: 0 },
  ).text;
}

/** The code of one step. */
export function totpAt(secret: string, step: number): string {
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(step));
  const mac = createHmac("sha1", fromBase32(secret)).update(counter).digest();
  const offset = (mac.at(-1) ?? 0) & 15;
  const number = (mac.readUInt32BE(offset) & 0x7fffffff) % 10 ** digits;
  return String(number).padStart(digits, "0");
}

export const stepOf = (ms: number): number => Math.floor(ms / stepMs);

/** The step that the code belongs to, near this time; undefined: it is not right. */
export function matchTotp(secret: string, code: string, nowMs: number): number | undefined {
  const given = Buffer.from(code);
  const now = stepOf(nowMs);
  let found: number | undefined;
  for (let step = now - drift; step <= now + drift; step++) {
    const expected = Buffer.from(totpAt(secret, step));
    if (given.length === expected.length && timingSafeEqual(given, expected)) found = step;
  }
  return found;
}

/** What authenticator apps read, usually from a QR code. */
export function totpUrl(secret: string, username: string): string {
  const label = encodeURIComponent(`Skerry:${username}`);
  return `otpauth://totp/${label}?secret=${secret}&issuer=Skerry&algorithm=SHA1&digits=${String(digits)}&period=30`;
}

function fromBase32(text: string): Buffer {
  const bytes: number[] = [];
  let held = 0;
  let count = 0;
  for (const character of text) {
    held = ((held << 5) | alphabet.indexOf(character)) & 0xfff;
    count += 5;
    if (count >= 8) {
      count -= 8;
      bytes.push((held >> count) & 0xff);
    }
  }
  return Buffer.from(bytes);
}
