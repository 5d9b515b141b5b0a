/**
 * The only way in which Skerry fetches a URL that somebody else chose. It connects to public addresses
 * alone, unless the operator allows more: the name is resolved once, each address is judged, and the
 * connection goes to an address that was judged, so a name cannot change its mind in between. Every
 * redirect is judged anew.
 */
import { lookup as resolveName } from "node:dns/promises";
import { request as httpRequest, type IncomingHttpHeaders, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import { isIP, type LookupFunction } from "node:net";
import { addressRanges, mayConnect } from "./address.ts";
import { Fault } from "./fault.ts";
import { cancelled, stallLimited, unlessAborted } from "./stall.ts";

export interface EgressPolicy {
  /** Ranges that may be reached though they are not public, such as `10.0.0.0/8`. */
  readonly allowedRanges: readonly string[];
  /** How long nothing may come before the server counts as stalled. */
  readonly stallMs: number;
}

export const defaultEgressPolicy: EgressPolicy = { allowedRanges: [], stallMs: 30_000 };

export interface GetOptions {
  readonly signal: AbortSignal;
  readonly headers?: Readonly<Record<string, string>>;
  /** More than this is an `invalid` fault with reason TOO_LARGE. */
  readonly maxBytes: number;
}

export interface Answer extends Disposable {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  /** Where the last redirect led. */
  readonly url: URL;
  /** Ends early with a fault: CONNECTION_LOST, SERVER_STALLED, TOO_LARGE. */
  readonly body: AsyncIterable<Uint8Array>;
}

const maxRedirects = 5;
const redirects: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/** Gets a URL; dispose of the answer when its body is not read to the end. Redirects are followed. */
export async function egressGet(url: string, policy: EgressPolicy, options: GetOptions): Promise<Answer> {
  let target = parseTarget(url);
  for (let hop = 0; hop <= maxRedirects; hop++) {
    const response = await getOnce(target, policy, options);
    const { statusCode: status = 0, headers } = response;
    if (!redirects.has(status) || headers.location === undefined) {
      return {
        status,
        headers,
        url: target,
        body: readBody(response, target, policy, options),
        [Symbol.dispose]: () => void response.destroy(),
      };
    }
    response.destroy();
    target = parseTarget(headers.location, target);
  }
  throw new Fault("invalid", "the server redirects too often", { reason: "TOO_MANY_REDIRECTS" });
}

function parseTarget(text: string, base?: URL): URL {
  const url = URL.canParse(text, base?.href) ? new URL(text, base) : undefined;
  if (url?.protocol === "https:" || url?.protocol === "http:") return url;
  throw new Fault("invalid", "only http and https URLs can be fetched", { reason: "URL_UNSUPPORTED" });
}

async function getOnce(url: URL, policy: EgressPolicy, options: GetOptions): Promise<IncomingMessage> {
  const addresses = await judgedAddresses(url, policy, options.signal);
  const request = url.protocol === "https:" ? httpsRequest : httpRequest;
  return await new Promise((resolve, reject) => {
    const outgoing = request(url, {
      agent: false,
      lookup: pinned(addresses),
      headers: { "user-agent": "skerry", "accept-encoding": "identity", ...options.headers },
      signal: options.signal,
    });
    const timer = setTimeout(() => outgoing.destroy(stalled(url, policy)), policy.stallMs);
    outgoing.on("error", (error) => {
      clearTimeout(timer);
      reject(toEgressFault(error, url, options.signal));
    });
    outgoing.on("response", (response) => {
      clearTimeout(timer);
      // Heard even when nobody has begun to read; the reader meets the error again.
      response.on("error", () => outgoing.destroy());
      resolve(response);
    });
    outgoing.end();
  });
}

interface Address {
  readonly address: string;
  readonly family: number;
}

async function judgedAddresses(url: URL, policy: EgressPolicy, signal: AbortSignal): Promise<Address[]> {
  const host = url.hostname.replace(/^\[(.*)\]$/, "$1");
  const found = isIP(host) ? [{ address: host, family: isIP(host) }] : await resolve(url, policy, signal);
  const allowed = addressRanges(policy.allowedRanges);
  const judged = found.filter(({ address }) => mayConnect(address, allowed));
  if (judged.length > 0) return judged;
  throw new Fault("denied", `${host} is not a public address; only the operator can allow it`, {
    reason: "ADDRESS_FORBIDDEN",
    detail: { host },
  });
}

async function resolve(url: URL, policy: EgressPolicy, signal: AbortSignal): Promise<Address[]> {
  const limit = AbortSignal.timeout(policy.stallMs);
  try {
    return await unlessAborted(resolveName(url.hostname, { all: true }), AbortSignal.any([signal, limit]));
  } catch (error) {
    throw limit.aborted ? stalled(url, policy) : toEgressFault(error, url, signal);
  }
}

/** Answers the connection's question for an address with those already judged. */
function pinned(addresses: readonly Address[]): LookupFunction {
  return (_host, options, callback) => {
    const [first] = addresses;
    if (options.all) callback(null, [...addresses]);
    else callback(null, first?.address ?? "", first?.family);
  };
}

async function* readBody(response: IncomingMessage, url: URL, policy: EgressPolicy, options: GetOptions) {
  let total = 0;
  try {
    const chunks = stallLimited<Buffer>(() => response, policy.stallMs, options.signal);
    for await (const chunk of chunks) {
      total += chunk.length;
      if (total > options.maxBytes) throw tooLarge(options.maxBytes);
      yield chunk;
    }
  } catch (error) {
    throw toEgressFault(error, url, options.signal);
  } finally {
    response.destroy();
  }
}

function tooLarge(maximum: number): Fault {
  return new Fault("invalid", `the content is larger than ${String(maximum)} bytes`, {
    reason: "TOO_LARGE",
    detail: { maximum },
  });
}

function stalled(url: URL, { stallMs }: EgressPolicy): Fault {
  return new Fault("unavailable", `${url.host} sent nothing for ${String(stallMs / 1000)} s`, {
    reason: "SERVER_STALLED",
  });
}

function toEgressFault(error: unknown, url: URL, signal: AbortSignal): Fault {
  if (signal.aborted) return cancelled(signal);
  if (error instanceof Fault) return error;
  return new Fault("unavailable", `the connection to ${url.host} failed`, {
    reason: "CONNECTION_FAILED",
    cause: error,
  });
}
