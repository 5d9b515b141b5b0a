/** QMP on the wire: JSON objects, one a line, both ways. Bounded, so that a mad peer cannot fill our memory. */
import { Fault } from "#kernel/fault.ts";

const newline = 0x0a;

/** Cuts a byte stream into JSON objects; a chunk may hold parts of many. */
export class JsonLineDecoder {
  readonly #maxLineBytes: number;
  #parts: Buffer[] = [];
  #pendingBytes = 0;

  constructor(maxLineBytes = 1024 ** 2) {
    this.#maxLineBytes = maxLineBytes;
  }

  /** The objects that `chunk` completes. Throws `internal` QMP_PROTOCOL when they are none. */
  push(chunk: Buffer): Record<string, unknown>[] {
    const objects: Record<string, unknown>[] = [];
    let rest = chunk;
    for (let end = rest.indexOf(newline); end >= 0; end = rest.indexOf(newline)) {
      this.#append(rest.subarray(0, end));
      const line = Buffer.concat(this.#parts).toString().trim();
      this.#parts = [];
      this.#pendingBytes = 0;
      if (line !== "") objects.push(parseObject(line));
      rest = rest.subarray(end + 1);
    }
    this.#append(rest);
    return objects;
  }

  #append(part: Buffer): void {
    if (part.length === 0) return;
    this.#pendingBytes += part.length;
    if (this.#pendingBytes > this.#maxLineBytes) throw protocolFault("a line is too long");
    this.#parts.push(part);
  }
}

function parseObject(line: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw protocolFault("a line is not JSON", cause);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw protocolFault("a line is not an object");
  }
  return value as Record<string, unknown>;
}

/** One object as a line. */
export function encodeJsonLine(object: object): string {
  return `${JSON.stringify(object)}\n`;
}

/** The peer does not speak QMP as we know it. */
export function protocolFault(message: string, cause?: unknown): Fault {
  return new Fault("internal", `QMP: ${message}`, { reason: "QMP_PROTOCOL", cause });
}
