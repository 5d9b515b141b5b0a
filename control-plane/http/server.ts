/**
 * The public HTTP server. One chain for every API: request id, route, identity, role, query, body,
 * handler, answer, one line of log. Whatever is thrown on the way is worded by the API that the path
 * belongs to, or as RFC 9457 where the client asks for that.
 */
import { setMaxListeners } from "node:events";
import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import Koa from "koa";
import { z } from "zod";
import type { Principal } from "#kernel/ctx.ts";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { parseTraceparent, requestIdHeader, requestIdPattern, traceHeader } from "#kernel/trace.ts";
import { authorise } from "../app/authorisation.ts";
import type { AuditFacts, AuditLog } from "../app/audit.ts";
import { RefusalBudget } from "../app/refusal-budget.ts";
import { rateExceeded, type RateLimits, type RateState } from "../app/rate-limits.ts";
import { parseInput } from "../app/validation.ts";
import { defaultBodyLimits, readJson } from "./body.ts";
import { headersOf, problemType, publicFault, statusOf, toProblem } from "./faults.ts";
import { auditedRoute } from "./audited-route.ts";
import { anonymous, RequestContext, type Outlet } from "./request-context.ts";
import type { Answer, Authenticator, Route, Surface } from "./route.ts";
import { Router, type Match } from "./router.ts";
import { bearerOf, refuseUpgrade } from "./upgrade.ts";
import { parseQuery } from "./query.ts";

export interface HttpServerOptions {
  readonly surfaces: readonly Surface[];
  /** Serves what belongs to no API, and words the errors of paths below no prefix. */
  readonly fallback: Surface;
  readonly authenticator: Authenticator;
  /** Without it, only what changes resources is written down. */
  readonly audit?: Pick<AuditLog, "record">;
  /** Without it, nobody is counted. */
  readonly rates?: Pick<RateLimits, "take">;
  readonly log: Logger;
  readonly now?: () => number;
  /** Time for a handler that names none of its own. */
  readonly deadlineMs?: number;
  /** Time for the head of a request. */
  readonly headersTimeoutMs?: number;
}

/** What is known of a request so far: filled on the way down the chain, read by the log line. */
interface Progress {
  readonly context: RequestContext;
  readonly match: Match;
  readonly path: string;
  readonly search: string;
  rate: RateState | undefined;
  fault: Fault | undefined;
}

const noFields = z.strictObject({});
const jsonType = "application/json; charset=utf-8";
const defaultDeadlineMs = 30_000;
const defaultHeadersTimeoutMs = 20_000;
const keepAliveMs = 65_000;
const stallTimeoutMs = 60_000;
const idleSweepMs = 20;

export class HttpServer {
  readonly #options: HttpServerOptions;
  readonly #router: Router;
  readonly #now: () => number;
  readonly #stopping = new AbortController();
  readonly #server: Server;
  readonly #refusals: RefusalBudget;
  /** Sockets that are WebSockets now, which the server no longer closes by itself. */
  readonly #upgraded = new Set<Duplex>();

  constructor(options: HttpServerOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#refusals = new RefusalBudget(this.#now);
    this.#router = new Router(options.surfaces, options.fallback);
    setMaxListeners(0, this.#stopping.signal); // each request in flight listens
    const koa = new Koa();
    koa.silent = true;
    // Errors of a stream whose head is already out: all that is left is to tell the operator.
    koa.on("error", (error: Error) => options.log.info("http.stream_failed", { error }));
    koa.use((exchange) => this.#serve(exchange));
    const handler = koa.callback();
    const headersTimeout = options.headersTimeoutMs ?? defaultHeadersTimeoutMs;
    // Bodies are watched by whoever reads them.
    const limits = { headersTimeout, requestTimeout: 0, connectionsCheckingInterval: headersTimeout / 4 };
    this.#server = createServer(limits, (req, res) => {
      void handler(req, res);
    });
    this.#server.keepAliveTimeout = keepAliveMs;
    this.#server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
      void this.#upgrade(request, socket, head);
    });
  }

  /** Begins to listen; answers with the address, whose port matters when 0 was asked for. */
  listen(port: number, host: string): Promise<AddressInfo> {
    return new Promise((resolve, reject) => {
      const failed = (cause: NodeJS.ErrnoException) =>
        reject(
          new Fault("unavailable", `cannot listen on ${host}:${String(port)}: ${cause.code ?? ""}`, {
            reason: "CANNOT_LISTEN",
            cause,
          }),
        );
      this.#server.once("error", failed);
      this.#server.listen(port, host, () => {
        this.#server.off("error", failed);
        resolve(this.#server.address() as AddressInfo);
      });
    });
  }

  /** Takes no new connections, ends the streams, lets running requests finish, cuts off what is left. */
  async stop(graceMs: number): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#stopping.abort(new Fault("unavailable", "the server is stopping", { reason: "STOPPING" }));
    // Connections of streams become idle only now, one by one.
    const sweep = setInterval(() => this.#server.closeIdleConnections(), idleSweepMs);
    const cutOff = setTimeout(() => {
      this.#server.closeAllConnections();
      for (const socket of this.#upgraded) socket.destroy();
    }, graceMs);
    await closed;
    clearInterval(sweep);
    clearTimeout(cutOff);
  }

  async #serve(exchange: Koa.Context): Promise<void> {
    const startedAt = performance.now();
    const progress = this.#begin(exchange.req, exchange.res);
    const { context } = progress;
    let answer: Answer;
    try {
      answer = await this.#answer(progress, exchange.req);
    } catch (thrown) {
      answer = this.#fail(progress, thrown, exchange.req);
    }
    const facts = this.#audited(progress);
    if (facts) {
      try {
        await this.#options.audit?.record(context, facts);
      } catch (thrown) {
        // What is not written down is not said to be done.
        answer = this.#fail(progress, thrown, exchange.req);
      }
    }
    const closing = this.#stopping.signal.aborted ? { Connection: "close" } : undefined;
    const rate = progress.rate && rateHeaders(progress.rate);
    send(exchange, answer, { "X-Request-Id": context.requestId, ...rate, ...closing });
    this.#log(progress, exchange.req, answer.status, startedAt);
  }

  #begin(request: IncomingMessage, outlet: Outlet): Progress {
    const url = request.url ?? "/";
    const mark = url.indexOf("?");
    const path = mark < 0 ? url : url.slice(0, mark);
    const given = request.headers[requestIdHeader];
    const context = new RequestContext({
      requestId: typeof given === "string" && requestIdPattern.test(given) ? given : randomUUID(),
      trace: parseTraceparent(request.headers[traceHeader]),
      address: request.socket.remoteAddress ?? "",
      now: this.#now,
      log: this.#options.log,
      outlet,
      stopping: this.#stopping.signal,
    });
    const match = this.#router.match(request.method ?? "GET", path);
    return {
      context,
      match,
      path,
      search: mark < 0 ? "" : url.slice(mark + 1),
      rate: undefined,
      fault: undefined,
    };
  }

  async #answer(progress: Progress, request: IncomingMessage): Promise<Answer> {
    const { route, fault } = progress.match;
    if (!route) throw fault ?? new Fault("internal", "no route and no fault");
    const waiting = this.#authorise(route, progress, request.headers.authorization);
    if (waiting) await waiting;
    const query = parseQuery(route, progress.search);
    const deadlineMs = route.deadlineMs?.(query) ?? this.#options.deadlineMs ?? defaultDeadlineMs;
    if (deadlineMs !== "none") {
      return progress.context.within(this.#handle(route, query, progress, request), deadlineMs);
    }
    request.setTimeout(stallTimeoutMs, () => request.destroy());
    return this.#handle(route, query, progress, request);
  }

  async #handle(route: Route, query: unknown, progress: Progress, request: IncomingMessage): Promise<Answer> {
    const { context, match } = progress;
    let body: unknown;
    if (!route.streams && request.method !== "GET" && request.method !== "HEAD") {
      body = await readJson(request, context.signal);
      if (route.body) body = parseInput(route.body, body === undefined ? {} : body, "");
      else if (body !== undefined) parseInput(noFields, body, "");
    }
    return route.handle({ ctx: context, params: match.params, query, body, request });
  }

  /** The one place where a request is let through or not. Mostly it is known at once, and there is nothing to wait for. */
  #authorise(route: Route, progress: Progress, authorization: string | undefined): Promise<void> | undefined {
    if (route.role === "anyone") return this.#admit(route, undefined, progress);
    const identified = this.#options.authenticator.authenticate(authorization);
    return identified instanceof Promise
      ? identified.then((principal) => this.#admit(route, principal, progress))
      : this.#admit(route, identified, progress);
  }

  /** Counts the request, and asks whether whoever sent it may. */
  #admit(route: Route, principal: Principal | undefined, progress: Progress): Promise<void> | undefined {
    const { context, match } = progress;
    if (principal) context.principal = principal;
    const decide = (rate: RateState | undefined) => {
      progress.rate = rate;
      if (rate?.allowed === false) throw rateExceeded(rate, this.#now());
      // Whoever joins a console types into the machine.
      const reads = route.method === "GET" && !route.changes && !route.upgrade;
      const effect = reads || route.reads ? "read" : "change";
      if (route.role !== "anyone") authorise(context.principal, route.role, "this", effect);
    };
    const counted = this.#options.rates?.take(match.surface.name, principal, context.trail.address);
    if (counted instanceof Promise) return counted.then(decide);
    decide(counted);
    return undefined;
  }

  /** What is to be written down: what changed something or was denied, unless the change has done so by itself. */
  #audited({ context, match: { route, params }, fault }: Progress): AuditFacts | undefined {
    if (!route || (fault === undefined && context.trail.recorded)) return undefined;
    const denied = fault?.code === "denied";
    const changes =
      (route.method !== "GET" || route.changes === true) && !route.reads && fault?.reason !== "RATE_LIMITED";
    // Whoever is nobody leaves a few traces only; a login that fails is a change that failed.
    const known = route.role === "anyone" || context.principal !== anonymous;
    const refused = !known && fault?.code === "unauthenticated";
    if (refused ? !this.#refusals.take(context.trail.address) : !denied && !(changes && known))
      return undefined;
    const success = fault === undefined;
    return { ...auditedRoute(route, params), success, ...(fault && { reason: fault.reason }) };
  }

  #fail(progress: Progress, thrown: unknown, request: IncomingMessage): Answer {
    const { context, match } = progress;
    progress.fault = toFault(thrown);
    const fault = publicFault(progress.fault, context.requestId);
    const asProblem = request.headers.accept?.includes("application/problem+json") === true;
    const headers = headersOf(fault);
    if (fault.reason === "TIMEOUT" || hasMuchToSend(request)) headers["Connection"] = "close";
    const status = statusOf(fault);
    const { requestId } = context;
    headers["Content-Type"] = asProblem ? problemType : match.surface.errorContentType;
    const body = asProblem
      ? toProblem(fault, requestId)
      : match.surface.encodeFault(fault, { requestId, now: context.now(), params: match.params });
    return { status, headers, body };
  }

  async #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    const startedAt = performance.now();
    this.#upgraded.add(socket);
    socket.once("close", () => this.#upgraded.delete(socket));
    socket.on("error", (error) => this.#options.log.debug("http.upgrade_socket", { error }));
    const progress = this.#begin(request, socket);
    const { context, match } = progress;
    let status = 101;
    try {
      const { route, params, fault } = match;
      if (!route) throw fault ?? new Fault("internal", "no route and no fault");
      if (!route.upgrade) throw new Fault("invalid", "nothing to upgrade to here", { reason: "NO_UPGRADE" });
      await this.#authorise(route, progress, bearerOf(request));
      const query = parseQuery(route, progress.search);
      const call = { ctx: context, params, query, body: undefined, request };
      await route.upgrade(call, socket, head, async () =>
        this.#options.audit?.record(context, { ...auditedRoute(route, params), success: true }),
      );
    } catch (thrown) {
      const answer = this.#fail(progress, thrown, request);
      status = answer.status;
      const facts = this.#audited(progress);
      await (facts && this.#options.audit?.record(context, facts))?.catch((error: unknown) =>
        this.#options.log.error("audit.failed", { error }),
      );
      refuseUpgrade(socket, answer, context.requestId);
    }
    this.#log(progress, request, status, startedAt);
  }

  #log(progress: Progress, request: IncomingMessage, status: number, startedAt: number): void {
    const { context, match, fault } = progress;
    const line = {
      request_id: context.requestId,
      ...(context.trace && { trace_id: context.trace.traceId }),
      api: match.surface.name,
      method: request.method,
      path: progress.path,
      operation: match.route?.operationId,
      status,
      ms: Math.round((performance.now() - startedAt) * 100) / 100,
      principal: context.principal.id,
      address: request.socket.remoteAddress,
    };
    if (!fault) this.#options.log.info("http.request", line);
    else if (fault.code === "internal") this.#options.log.error("http.request", { ...line, fault });
    else this.#options.log.info("http.request", { ...line, reason: fault.reason, problem: fault.message });
  }
}

function send(exchange: Koa.Context, answer: Answer, always: Readonly<Record<string, string>>): void {
  const { res } = exchange;
  if ("raw" in answer) {
    // Koa pipes streams, and ends them when the client leaves.
    exchange.status = answer.status;
    exchange.set({ ...answer.headers, ...always });
    exchange.body = answer.raw;
    return;
  }
  // Most answers are small JSON: head and body leave in one write, without Koa's second look at them.
  exchange.respond = false;
  if (answer.body === null) {
    res.writeHead(answer.status, { ...answer.headers, ...always }).end();
    return;
  }
  const text = JSON.stringify(answer.body);
  const length = Buffer.byteLength(text);
  const headers = { "Content-Type": jsonType, "Content-Length": length, ...answer.headers, ...always };
  res.writeHead(answer.status, headers).end(text);
}

const rateHeaders = ({ limit, remaining, resetAt }: RateState): Record<string, string> => ({
  "X-RateLimit-Limit": String(limit),
  "X-RateLimit-Remaining": String(remaining),
  "X-RateLimit-Reset": String(resetAt),
});

/** True when so much of the body is still to come that it is better cut off than read to the end. */
function hasMuchToSend(request: IncomingMessage): boolean {
  if (request.complete) return false;
  if (request.headers["transfer-encoding"] !== undefined) return true;
  return Number(request.headers["content-length"] ?? 0) > defaultBodyLimits.drainBytes;
}
