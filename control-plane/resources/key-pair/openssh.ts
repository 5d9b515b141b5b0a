/** Public and private keys as OpenSSH writes them (RFC 4253 section 6.6; the format of `openssh-key-v1`). */
import { createHash, generateKeyPairSync, randomBytes } from "node:crypto";
import { Fault } from "#kernel/fault.ts";

export interface PublicKey {
  readonly type: string;
  readonly blob: Buffer;
  readonly comment: string;
}

/** How many strings follow the type's name, and which of them is the modulus. */
const layouts: Readonly<Record<string, { readonly strings: number; readonly modulus?: number }>> = {
  "ssh-ed25519": { strings: 1 },
  "ssh-rsa": { strings: 2, modulus: 1 },
  "ecdsa-sha2-nistp256": { strings: 2 },
  "ecdsa-sha2-nistp384": { strings: 2 },
  "ecdsa-sha2-nistp521": { strings: 2 },
  "sk-ssh-ed25519@openssh.com": { strings: 2 },
  "sk-ecdsa-sha2-nistp256@openssh.com": { strings: 3 },
};
const minRsaBytes = 2048 / 8;
const ed25519KeyBytes = 32;
const line = /^([a-z0-9@.-]+) +([A-Za-z0-9+/]+={0,2})(?: +([^\p{Cc}]*))?$/u;

/** Reads one line of an `authorized_keys` file without options. Throws `invalid` PUBLIC_KEY_INVALID. */
export function parsePublicKey(text: string): PublicKey {
  const [, type = "", base64 = "", comment = ""] = line.exec(text.trim()) ?? [];
  const layout = Object.hasOwn(layouts, type) ? layouts[type] : undefined;
  if (!layout) throw refuse(`must be one line: ${Object.keys(layouts).join(", ")}, then the key`);
  const blob = Buffer.from(base64, "base64");
  const [name, ...strings] = readStrings(blob);
  if (name?.toString("latin1") !== type || strings.length !== layout.strings) {
    throw refuse(`is not a key of type ${type}`);
  }
  if (type === "ssh-ed25519" && strings[0]?.length !== ed25519KeyBytes) throw refuse("is cut off");
  // A leading zero byte keeps the modulus positive.
  const modulus = layout.modulus === undefined ? undefined : strings[layout.modulus];
  if (modulus && modulus.length - (modulus[0] === 0 ? 1 : 0) < minRsaBytes) {
    throw refuse("must have at least 2048 bits");
  }
  return { type, blob, comment: comment.trim() };
}

/** The line that `authorized_keys` takes. */
export function formatPublicKey({ type, blob, comment }: PublicKey): string {
  return [type, blob.toString("base64"), ...(comment === "" ? [] : [comment])].join(" ");
}

/** As `ssh-keygen -l` shows it. */
export function fingerprintOf({ blob }: PublicKey): string {
  return `SHA256:${createHash("sha256").update(blob).digest("base64").replace(/=+$/, "")}`;
}

/** Makes an Ed25519 key pair. The private half is not encrypted. */
export function generateKeyPair(): { readonly publicKey: PublicKey; readonly privateKey: string } {
  const { privateKey } = generateKeyPairSync("ed25519");
  const { d = "", x = "" } = privateKey.export({ format: "jwk" });
  const [seed, key] = [Buffer.from(d, "base64url"), Buffer.from(x, "base64url")];
  const type = "ssh-ed25519";
  const publicKey = { type, blob: Buffer.concat([string(type), string(key)]), comment: "" };
  return { publicKey, privateKey: formatPrivateKey(publicKey, seed, key) };
}

function formatPrivateKey({ type, blob, comment }: PublicKey, seed: Buffer, key: Buffer): string {
  // Twice the same number: so a reader tells a wrong passphrase from a broken file.
  const check = randomBytes(4);
  const secret = Buffer.concat([seed, key]);
  const open = Buffer.concat([check, check, string(type), string(key), string(secret), string(comment)]);
  const missing = (8 - (open.length % 8)) % 8;
  const padding = Buffer.from(Array.from({ length: missing }, (_, index) => index + 1));
  const bytes = Buffer.concat([
    Buffer.from("openssh-key-v1\0"),
    ...["none", "none", ""].map(string),
    uint32(1),
    string(blob),
    string(Buffer.concat([open, padding])),
  ]);
  const lines = bytes.toString("base64").match(/.{1,70}/g) ?? [];
  const frame = (edge: string) => `-----${edge} OPENSSH PRIVATE KEY-----`;
  return [frame("BEGIN"), ...lines, frame("END"), ""].join("\n");
}

function readStrings(blob: Buffer): Buffer[] {
  const strings: Buffer[] = [];
  for (let at = 0; at < blob.length;) {
    const length = at + 4 <= blob.length ? blob.readUInt32BE(at) : Infinity;
    if (at + 4 + length > blob.length) throw refuse("is cut off");
    strings.push(blob.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  return strings;
}

function string(value: string | Buffer): Buffer {
  const bytes = typeof value === "string" ? Buffer.from(value) : value;
  return Buffer.concat([uint32(bytes.length), bytes]);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

const refuse = (why: string) =>
  new Fault("invalid", `the public key ${why}`, {
    reason: "PUBLIC_KEY_INVALID",
    detail: { fields: [{ field: "spec.public_key", message: why }] },
  });
