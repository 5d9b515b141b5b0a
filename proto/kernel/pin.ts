import { createHash } from "node:crypto";
import { Fault } from "./fault.ts";

/**
 * What a new host is given to join with: `<id>.<secret>.<pin>`. The id and secret let it in, once; the
 * pin tells it which cloud it may say them to, before it trusts anybody.
 */
export interface EnrolmentToken {
  readonly id: string;
  readonly secret: string;
  /** SHA-256 of the certificate authority's DER, base64url. */
  readonly pin: string;
}

const shape = /^([a-z0-9-]{1,64})\.([A-Za-z0-9_-]{16,128})\.([A-Za-z0-9_-]{43})$/;

/** The pin of a certificate authority. */
export function pinOf(certificateDer: Uint8Array): string {
  return createHash("sha256").update(certificateDer).digest("base64url");
}

export function formatEnrolmentToken({ id, secret, pin }: EnrolmentToken): string {
  return `${id}.${secret}.${pin}`;
}

/** Throws `invalid` with reason TOKEN_MALFORMED for a text that was cut off or is something else. */
export function parseEnrolmentToken(text: string): EnrolmentToken {
  const [, id, secret, pin] = shape.exec(text.trim()) ?? [];
  if (id === undefined || secret === undefined || pin === undefined) {
    throw new Fault("invalid", "the enrolment token is malformed: copy it whole, as <id>.<secret>.<pin>", {
      reason: "TOKEN_MALFORMED",
    });
  }
  return { id, secret, pin };
}
