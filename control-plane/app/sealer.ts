/**
 * Secrets at rest: AES-256-GCM with a key that is not in the database, so that a copy of the database
 * alone opens nothing. What a secret is for is bound to it: moved to another place it does not open.
 */
import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { Fault } from "#kernel/fault.ts";

const cipherName = "aes-256-gcm";
const keyBytes = 32;
const nonceBytes = 12;
const tagBytes = 16;
const sealedPrefix = "s1:";

export class Sealer {
  readonly #key: Buffer | undefined;

  private constructor(key: Buffer | undefined) {
    this.#key = key;
  }

  /**
   * With the key that is given, else that of a file, which is made when it is not there.
   * @param file empty, as the key: secrets are stored as they are
   * @param given base64 of 32 bytes
   */
  static async open(file: string, given = ""): Promise<Sealer> {
    if (given !== "") return new Sealer(toKey(given, "SKERRY_SECRET_KEY_BASE64"));
    if (file === "") return new Sealer(undefined);
    const made = randomBytes(keyBytes).toString("base64");
    await writeFile(file, `${made}\n`, { mode: 0o600, flag: "wx" }).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
    });
    return new Sealer(toKey((await readFile(file, "utf8")).trim(), file));
  }

  /** False: there is no key, and what is sealed is as it was. */
  get seals(): boolean {
    return this.#key !== undefined;
  }

  /** A digest that tells nothing to whoever has no key, not even by guessing. */
  digest(text: string): string {
    const hash = this.#key ? createHmac("sha256", this.#key) : createHash("sha256");
    return hash.update(text).digest("hex");
  }

  /** True when it was stored before there was a key. */
  isOpen(stored: string): boolean {
    return this.#key !== undefined && !stored.startsWith(sealedPrefix);
  }

  seal(secret: string, purpose: string): string {
    if (!this.#key) return secret;
    const nonce = randomBytes(nonceBytes);
    const cipher = createCipheriv(cipherName, this.#key, nonce).setAAD(Buffer.from(purpose));
    const sealed = Buffer.concat([cipher.update(secret, "utf8"), cipher.final()]);
    return sealedPrefix + Buffer.concat([nonce, cipher.getAuthTag(), sealed]).toString("base64");
  }

  /** What was sealed for this purpose; what was stored before there was a key opens as it is. */
  unseal(stored: string, purpose: string): string {
    if (!stored.startsWith(sealedPrefix)) return stored;
    try {
      if (!this.#key) throw new Error("there is no key");
      const bytes = Buffer.from(stored.slice(sealedPrefix.length), "base64");
      const tag = bytes.subarray(nonceBytes, nonceBytes + tagBytes);
      const decipher = createDecipheriv(cipherName, this.#key, bytes.subarray(0, nonceBytes))
        .setAAD(Buffer.from(purpose))
        .setAuthTag(tag);
      const opened = [decipher.update(bytes.subarray(nonceBytes + tagBytes)), decipher.final()];
      return Buffer.concat(opened).toString("utf8");
    } catch (cause) {
      throw new Fault("internal", "a stored secret does not open with this key", { cause });
    }
  }
}

function toKey(text: string, from: string): Buffer {
  const key = Buffer.from(text, "base64");
  if (key.length === keyBytes) return key;
  throw new Fault("invalid", `${from} must hold ${String(keyBytes)} bytes in base64`, {
    reason: "SETTINGS_INVALID",
  });
}
