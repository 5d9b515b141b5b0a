/** Where an image file's bytes come from: a web server, or the control plane. */
import { Fault } from "#kernel/fault.ts";
import { egressGet, type Answer, type EgressPolicy } from "#kernel/egress.ts";
import { stallLimited } from "#kernel/stall.ts";

/** Streams the bytes of an uploaded file from the control plane, from `offset` on. */
export type FetchFile = (sha256: string, offset: bigint, signal: AbortSignal) => AsyncIterable<Uint8Array>;

export interface Opened extends Disposable {
  /** Where `chunks` begin: what was asked for, or 0 when the source cannot resume. */
  readonly offset: number;
  /** Size of the whole file; undefined when the source does not say. */
  readonly total: number | undefined;
  readonly chunks: AsyncIterable<Uint8Array>;
}

export interface Source {
  open(offset: number, signal: AbortSignal): Promise<Opened>;
}

/** A file that was uploaded. Its bytes never change, so any offset continues. */
export function controlPlaneSource(sha256: string, fetchFile: FetchFile, stallMs: number): Source {
  return {
    open: async (offset, signal) => {
      const chunks = stallLimited((wanted) => fetchFile(sha256, BigInt(offset), wanted), stallMs, signal);
      return { offset, total: undefined, chunks, [Symbol.dispose]: () => undefined };
    },
  };
}

/** A download that resumes while the server says it is still the same file. */
export function webSource(url: string, egress: EgressPolicy, maxBytes: number): Source {
  let validator: string | undefined;
  return {
    open: async (offset, signal) => {
      const resume = offset === 0 ? {} : { range: `bytes=${String(offset)}-` };
      const condition = offset > 0 && validator !== undefined ? { "if-range": validator } : {};
      const answer = await egressGet(url, egress, { signal, maxBytes, headers: { ...resume, ...condition } });
      try {
        const opened = readAnswer(answer, offset);
        validator = validatorOf(answer);
        return opened;
      } catch (error) {
        answer[Symbol.dispose]();
        throw error;
      }
    },
  };
}

function readAnswer(answer: Answer, asked: number): Opened {
  const length = Number(answer.headers["content-length"] ?? NaN);
  const known = Number.isSafeInteger(length);
  const opened = { chunks: answer.body, [Symbol.dispose]: () => answer[Symbol.dispose]() };
  if (answer.status === 200) return { offset: 0, total: known ? length : undefined, ...opened };
  if (answer.status === 206) {
    const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(answer.headers["content-range"] ?? "");
    if (Number(range?.[1]) !== asked)
      throw refused(answer, "sent another part of the file than asked for", true);
    return { offset: asked, total: range?.[2] === "*" ? undefined : Number(range?.[2]), ...opened };
  }
  const passing = answer.status >= 500 || answer.status === 429 || answer.status === 408;
  throw refused(answer, `answered ${String(answer.status)}`, passing);
}

function refused(answer: Answer, what: string, retryable: boolean): Fault {
  return new Fault("unavailable", `${answer.url.host} ${what}`, {
    reason: "SERVER_REFUSED",
    detail: { status: answer.status },
    retryable,
  });
}

/** Weak entity tags do not promise the same bytes. */
function validatorOf({ headers }: Answer): string | undefined {
  return headers.etag?.startsWith('"') ? headers.etag : headers["last-modified"];
}
