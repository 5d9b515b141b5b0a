/**
 * The contract between the HTTP server and the APIs it serves. A surface is one public API: its
 * prefixes, its routes and the way it words errors. Routes are data, so that the router, the
 * authorisation choke point and the OpenAPI documents all read the same table.
 */
import type { IncomingMessage } from "node:http";
import type { Duplex, Readable } from "node:stream";
import type { z } from "zod";
import type { Ctx } from "#kernel/ctx.ts";
import type { Fault, Json } from "#kernel/fault.ts";
import type { Reply } from "../app/resource-api.ts";
import type { Access } from "../resources/definition.ts";

export type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS";
export type Params = Readonly<Record<string, string>>;

/** An answer that is not JSON, or that is passed on from another replica. */
export interface RawAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly raw: string | Readable;
}
export type Answer = Reply | RawAnswer;

/** One request as a handler sees it: identified, authorised, read and validated. */
export interface Call<Query = Params, Body = unknown> {
  readonly ctx: Ctx;
  readonly params: Params;
  readonly query: Query;
  readonly body: Body;
  /** For handlers that stream, and for headers. */
  readonly request: IncomingMessage;
}

/** How one status of a route is documented. Without a schema there is no body. */
export interface AnswerDoc {
  readonly description: string;
  readonly schema?: z.ZodType;
  /** Name of the schema among the document's components. */
  readonly name?: string;
  /** Parts of the schema that are components of the document, by their names; for a schema without a name of its own. */
  readonly parts?: Readonly<Record<string, z.ZodType>>;
  /** Default: application/json. */
  readonly contentType?: string;
}

/** What a request and its answers look like, for the document. */
export interface RouteExamples {
  readonly body?: Json;
  /** By status. */
  readonly answers?: Readonly<Record<number, Json>>;
}

export interface RouteSpec<Query, Body> {
  readonly method: Method;
  /** Such as `/v1/vms/{vm_id}`. */
  readonly path: string;
  readonly operationId: string;
  readonly summary: string;
  readonly tag: string;
  /** What it takes; `anyone`: without authentication. */
  readonly role: Access | "anyone";
  /** A POST that changes nothing, so that keys which only read may call it. */
  readonly reads?: true;
  /** A GET that is written down like a change: it hands out something. */
  readonly changes?: true;
  /** A strict object; absent: no parameters are taken. `label.<key>` parameters arrive as one object. */
  readonly query?: z.ZodType<Query>;
  readonly body?: z.ZodType<Body>;
  /** Told in the document when validation of a part of the body happens deeper down. */
  readonly bodyDoc?: z.ZodType;
  /** The handler reads the request itself. */
  readonly streams?: { readonly contentType: string; readonly description: string };
  /** Takes If-Match (PATCH, DELETE, verbs) and, on POST, Idempotency-Key. */
  readonly mutates?: true;
  readonly answers: Readonly<Record<number, AnswerDoc>>;
  readonly examples?: RouteExamples;
  /** How long the handler may take; `none` for uploads, which are watched for stalls instead. */
  deadlineMs?(query: NoInfer<Query>): number | "none";
  handle(call: Call<Query, Body>): Promise<Answer>;
  /**
   * Takes over a WebSocket upgrade; `handle` then answers plain requests.
   * @param joining writes down that somebody is let in, before they are
   */
  upgrade?(
    call: Call<Query, Body>,
    socket: Duplex,
    head: Buffer,
    joining: () => Promise<void>,
  ): Promise<void>;
}

/** A route whose types have been forgotten, as routers hold them. */
export type Route = RouteSpec<unknown, unknown>;

/** Declares a route; query and body types come from its schemas. */
export function defineRoute<Query = Params, Body = undefined>(route: RouteSpec<Query, Body>): Route {
  return route;
}

export interface ErrorContext {
  readonly requestId: string;
  readonly now: number;
  readonly params: Params;
}

/** Whether a path is one of the prefixes or below one. */
export const isBelow = (prefixes: readonly string[], path: string): boolean =>
  prefixes.some((prefix) => path === prefix || path.startsWith(`${prefix}/`));

/** One public API. Its errors look its way on every path below its prefixes, known or not. */
export interface Surface {
  readonly name: string;
  readonly title: string;
  /** Paths without a trailing slash. */
  readonly prefixes: readonly string[];
  readonly routes: readonly Route[];
  /** True: its paths are documented with a slash at the end, and found with or without. */
  readonly trailingSlash?: boolean;
  /** Schema of `encodeFault`'s bodies, for the document. */
  readonly errorSchema: z.ZodType;
  readonly errorContentType: string;
  encodeFault(fault: Fault, context: ErrorContext): Json;
}

/** Tells who is asking; throws `unauthenticated`. May answer at once when it knows already. */
export interface Authenticator {
  authenticate(authorization: string | undefined): PrincipalResult;
}
type PrincipalResult = Ctx["principal"] | Promise<Ctx["principal"]>;
