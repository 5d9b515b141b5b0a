/**
 * A PKCS #10 certificate request, written by hand: it is twenty fixed lines of DER, and the library that
 * the control plane uses for certificates would cost an agent 19 MiB of memory. The subject is left empty:
 * the authority decides on every name, so there is nothing to ask for.
 */
import { createPublicKey, generateKeyPairSync, sign, type KeyObject } from "node:crypto";

const tag = { integer: 0x02, bitString: 0x03, sequence: 0x30, attributes: 0xa0 } as const;
/** The algorithm identifier ecdsa-with-SHA256: an object identifier without parameters. */
const ecdsaWithSha256 = Buffer.from("300a06082a8648ce3d040302", "hex");

/** A new P-256 private key: the quickest in a TLS handshake of what every client understands. */
export function newPrivateKey(): KeyObject {
  return generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
}

/** Asks for a certificate for a P-256 key; the signature proves that the key is held. PEM. */
export function createCertificateRequest(privateKey: KeyObject): string {
  const publicKeyInfo = createPublicKey(privateKey).export({ type: "spki", format: "der" });
  const version = der(tag.integer, Buffer.of(0));
  const subject = der(tag.sequence);
  const info = der(tag.sequence, version, subject, publicKeyInfo, der(tag.attributes));
  const signature = der(tag.bitString, Buffer.of(0), sign("sha256", info, privateKey));
  const request = der(tag.sequence, info, ecdsaWithSha256, signature);
  const lines = request.toString("base64").match(/.{1,64}/g) ?? [];
  return ["-----BEGIN CERTIFICATE REQUEST-----", ...lines, "-----END CERTIFICATE REQUEST-----", ""].join(
    "\n",
  );
}

/** One element; what is written here stays under 256 bytes. */
function der(type: number, ...parts: readonly Buffer[]): Buffer {
  const content = Buffer.concat(parts);
  const length = content.length < 0x80 ? [content.length] : [0x81, content.length];
  return Buffer.concat([Buffer.of(type, ...length), content]);
}
