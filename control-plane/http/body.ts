import { isUtf8 } from "node:buffer";
import type { IncomingMessage } from "node:http";
import { Fault } from "#kernel/fault.ts";
import { invalidField } from "../app/validation.ts";
import { unstorable } from "./query.ts";

export interface BodyLimits {
  readonly maxBytes: number;
  /** How much of a body that is too large is read and dropped, so that the client sees the answer. */
  readonly drainBytes: number;
  readonly maxDepth: number;
}

export const defaultBodyLimits: BodyLimits = {
  maxBytes: 1024 ** 2,
  drainBytes: 32 * 1024 ** 2,
  maxDepth: 32,
};

const jsonType = /^application\/(json|[\w.+-]+\+json)\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?$/i;

/** Reads a JSON body. No body at all is `undefined`. */
export async function readJson(
  request: IncomingMessage,
  signal: AbortSignal,
  limits: BodyLimits = defaultBodyLimits,
): Promise<unknown> {
  const bytes = await readBytes(request, signal, limits);
  if (bytes.length === 0) return undefined;
  const { "content-type": type, "content-encoding": encoding } = request.headers;
  if (type !== undefined && !jsonType.test(type)) throw unsupported("the body must be application/json");
  if (encoding !== undefined && encoding !== "identity") throw unsupported("the body must not be compressed");
  if (!isUtf8(bytes)) throw malformed("the body is not valid UTF-8");
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString("utf8"));
  } catch (cause) {
    throw malformed("the body is not valid JSON", cause);
  }
  refuseHarmful(value, "", limits.maxDepth);
  return value;
}

function readBytes(request: IncomingMessage, signal: AbortSignal, limits: BodyLimits): Promise<Buffer> {
  const { headers } = request;
  if (headers["content-length"] === undefined && headers["transfer-encoding"] === undefined) {
    return Promise.resolve(Buffer.alloc(0));
  }
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    const settle = (outcome: () => void) => {
      request.off("data", read).off("end", ended).off("error", failed).off("close", cut);
      signal.removeEventListener("abort", aborted);
      outcome();
    };
    const read = (chunk: Buffer) => {
      size += chunk.length;
      if (size <= limits.maxBytes) chunks.push(chunk);
      else chunks.length = 0;
      if (size > limits.drainBytes) settle(() => reject(tooLarge(limits)));
    };
    const ended = () =>
      settle(() => (size > limits.maxBytes ? reject(tooLarge(limits)) : resolve(Buffer.concat(chunks))));
    const failed = (cause: Error) => settle(() => reject(malformed("the body was cut off", cause)));
    const cut = () => settle(() => reject(malformed("the body was cut off")));
    const aborted = () => settle(() => reject(signal.reason as Error));
    if (signal.aborted) return aborted();
    signal.addEventListener("abort", aborted, { once: true });
    request.on("data", read).on("end", ended).on("error", failed).on("close", cut);
  });
}

/** Refuses what would do harm further in: endless nesting, `__proto__`, text that cannot be stored. */
function refuseHarmful(value: unknown, path: string, depthLeft: number): void {
  if (typeof value === "string") {
    if (unstorable.test(value)) throw harmful(path, "has a character that cannot be stored");
    return;
  }
  if (typeof value !== "object" || value === null) return;
  if (depthLeft === 0) throw malformed("the body is nested too deeply");
  for (const [key, member] of Object.entries(value)) {
    const at = path === "" ? key : `${path}.${key}`;
    if (key === "__proto__") throw harmful(at, "is not an allowed field");
    if (unstorable.test(key)) throw harmful(path, "has a field whose name cannot be stored");
    refuseHarmful(member, at, depthLeft - 1);
  }
}

const harmful = (path: string, why: string) => invalidField(path.slice(0, 200) || "body", why);

const malformed = (message: string, cause?: unknown) =>
  new Fault("invalid", message, { reason: "BODY_MALFORMED", cause });

const unsupported = (message: string) => new Fault("invalid", message, { reason: "UNSUPPORTED_MEDIA_TYPE" });

const tooLarge = (limits: BodyLimits) =>
  new Fault("invalid", `the body is larger than ${String(limits.maxBytes)} bytes`, {
    reason: "BODY_TOO_LARGE",
    detail: { max_bytes: limits.maxBytes },
  });
