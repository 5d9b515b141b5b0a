import { PassThrough, type Readable } from "node:stream";
import type { IncomingMessage } from "node:http";
import t from "tap";
import { z } from "zod";
import type { WatchEvent } from "#cp/app/resource-api.ts";
import { BoundedCache } from "#cp/app/bounded-cache.ts";
import { resolveRange } from "#cp/app/metrics-query.ts";
import { readJson } from "#cp/http/body.ts";
import { canonical } from "#cp/http/conditional.ts";
import { headersOf, statusOf, toProblem } from "#cp/http/faults.ts";
import { flagParameter, integerParameter, timeParameter } from "#cp/http/parameters.ts";
import { parseQuery } from "#cp/http/query.ts";
import { defineRoute, type Method, type RawAnswer, type Route, type Surface } from "#cp/http/route.ts";
import { Router } from "#cp/http/router.ts";
import { toEventStream } from "#cp/http/sse.ts";
import { Fault, faultCodes } from "#kernel/fault.ts";
import { until } from "#test/support/until.ts";
import { reasonOf } from "#test/support/reason-of.ts";

const route = (method: Method, path: string, query?: z.ZodType): Route =>
  defineRoute<unknown, undefined>({
    method,
    path,
    operationId: `${method} ${path}`,
    summary: "",
    tag: "",
    role: "anyone",
    ...(query && { query }),
    answers: {},
    handle: async () => ({ status: 200, headers: {}, body: null }),
  });

const surface = (name: string, prefixes: string[], routes: Route[]): Surface => ({
  name,
  title: name,
  prefixes,
  routes,
  errorSchema: z.unknown(),
  errorContentType: "application/json",
  encodeFault: () => ({}),
});

void t.test("router", async (t) => {
  const system = surface("system", [], [route("GET", "/healthz")]);
  const things = surface(
    "things",
    ["/v1/things"],
    [
      route("GET", "/v1/things"),
      route("POST", "/v1/things"),
      route("GET", "/v1/things/{id}"),
      route("GET", "/v1/things/special"),
      route("POST", "/v1/things/{id}/start"),
      route("GET", "/v1/things/{thing}/parts/{part}"),
    ],
  );
  const router = new Router([things, surface("other", ["/v1/other", "/v1/other/deep"], []), system], system);

  const found: [string, string, string, Record<string, string>][] = [
    ["GET", "/healthz", "GET /healthz", {}],
    ["GET", "/v1/things", "GET /v1/things", {}],
    ["HEAD", "/v1/things", "GET /v1/things", {}],
    ["GET", "/v1/things/special", "GET /v1/things/special", {}],
    ["GET", "/v1/things/a%20b", "GET /v1/things/{id}", { id: "a b" }],
    ["GET", "/v1/things/..%2f", "GET /v1/things/{id}", { id: "../" }],
    ["POST", "/v1/things/x/start", "POST /v1/things/{id}/start", { id: "x" }],
    ["GET", "/v1/things/a/parts/b", "GET /v1/things/{thing}/parts/{part}", { thing: "a", part: "b" }],
  ];
  for (const [method, path, operation, params] of found) {
    const match = router.match(method, path);
    t.equal(match.route?.operationId, operation, path);
    t.same(match.params, params);
  }
  const missing: [string, string, string, string][] = [
    ["GET", "/", "system", "ROUTE_NOT_FOUND"],
    ["GET", "/v1", "system", "ROUTE_NOT_FOUND"],
    ["GET", "//v1/things", "system", "ROUTE_NOT_FOUND"],
    ["GET", "/v1/thingsy", "system", "ROUTE_NOT_FOUND"],
    ["GET", "/v1/things/", "things", "ROUTE_NOT_FOUND"],
    ["GET", "/v1/things//parts/b", "things", "ROUTE_NOT_FOUND"],
    ["GET", "/v1/things/a/parts/b/c", "things", "ROUTE_NOT_FOUND"],
    ["GET", "/v1/other/deep/er", "other", "ROUTE_NOT_FOUND"],
    ["GET", "http://host/v1/things", "system", "ROUTE_NOT_FOUND"],
    ["PUT", "/v1/things", "things", "METHOD_NOT_ALLOWED"],
    ["constructor", "/v1/things", "things", "METHOD_NOT_ALLOWED"],
    ["GET", "/v1/things/%ff", "things", "PATH_MALFORMED"],
    ["GET", "/v1/things/a%00", "things", "PATH_MALFORMED"],
  ];
  for (const [method, path, owner, reason] of missing) {
    const match = router.match(method, path);
    t.equal(match.surface.name, owner, path);
    t.equal(match.fault?.reason, reason, path);
    t.equal(match.route, undefined);
  }
  t.throws(
    () => new Router([surface("twice", [], [route("GET", "/a"), route("GET", "/a")])], system),
    /two routes/,
  );
});

void t.test("query", async (t) => {
  const schema = z.strictObject({
    limit: integerParameter({ min: 1, max: 10, description: "" }).optional(),
    watch: flagParameter("").optional(),
    label: z.record(z.string(), z.string()).optional(),
    since: timeParameter("", "start").optional(),
    until: timeParameter("", "end").optional(),
  });
  const list = route("GET", "/things", schema);
  t.same(parseQuery(list, ""), {});
  t.same(parseQuery(list, "limit=10&watch"), { limit: 10, watch: true });
  t.same(parseQuery(list, "watch=0"), { watch: false });
  t.same(parseQuery(list, "label.a=1&label.b.c=%202"), { label: { a: "1", "b.c": " 2" } });
  t.same(parseQuery(list, "since=2025-10-01&until=2025-10-01"), {
    since: new Date("2025-10-01T00:00:00Z"),
    until: new Date("2025-10-01T23:59:59.999Z"),
  });
  t.same(parseQuery(list, "since=2025-10-01T02:00:00%2B02:00"), { since: new Date("2025-10-01T00:00:00Z") });
  for (const bad of [
    "limit=0",
    "limit=11",
    "limit=-1",
    "limit=",
    "limit=0x5",
    "limit=5&limit=5",
    "label.a=1&label.a=2",
    "label=1&label.a=2",
    "label=1",
    "colour=red",
    "__proto__=1",
    "__proto__.x=1",
    "watch=maybe",
    "since=2025-13-01",
    "since=2025-02-30",
    "since=2025-02-28T25:00:00Z",
    "since=1",
    "label.a=%00",
  ]) {
    t.equal(await reasonOf(() => parseQuery(list, bad)), "VALIDATION_ERROR", bad);
  }
  t.equal(await reasonOf(() => parseQuery(route("GET", "/none"), "x=1")), "VALIDATION_ERROR");
  t.equal(({} as Record<string, unknown>)["x"], undefined, "no prototype was touched");
});

void t.test("body", async (t) => {
  const limits = { maxBytes: 64, drainBytes: 128, maxDepth: 4 };
  const read = async (chunks: readonly (string | Buffer)[], headers: Record<string, string> = {}) => {
    const stream = new PassThrough();
    const request = Object.assign(stream, { headers: { "transfer-encoding": "chunked", ...headers } });
    const reading = readJson(request as unknown as IncomingMessage, new AbortController().signal, limits);
    for (const chunk of chunks) stream.write(chunk);
    stream.end();
    return reading;
  };
  const snowman = Buffer.from('"☃"');
  t.equal(await read([snowman.subarray(0, 2), snowman.subarray(2)]), "☃", "a character across two chunks");
  t.same(await read(['{"a":[1,{"b":null}]}'], { "content-type": "application/merge-patch+json" }), {
    a: [1, { b: null }],
  });
  t.equal(await read([]), undefined);
  const refused: [string, readonly (string | Buffer)[], Record<string, string>?][] = [
    ["BODY_TOO_LARGE", [`"${"x".repeat(80)}"`]],
    ["BODY_TOO_LARGE", ["x".repeat(100), "x".repeat(100)]],
    ["BODY_MALFORMED", ["[[[[[1]]]]]"]],
    ["BODY_MALFORMED", ["{'a':1}"]],
    ["BODY_MALFORMED", [Buffer.from([0x22, 0xc3, 0x28, 0x22])]],
    ["VALIDATION_ERROR", ['{"a":{"__proto__":{}}}']],
    ["VALIDATION_ERROR", ['{"a":"\\u0000"}']],
    ["VALIDATION_ERROR", ['{"\\udc00":1}']],
    ["UNSUPPORTED_MEDIA_TYPE", ["{}"], { "content-type": "text/plain" }],
    ["UNSUPPORTED_MEDIA_TYPE", ["{}"], { "content-encoding": "gzip" }],
  ];
  for (const [reason, chunks, headers] of refused) {
    t.equal(await reasonOf(read(chunks, headers)), reason, String(chunks[0]).slice(0, 20));
  }
});

void t.test("faults as HTTP", async (t) => {
  for (const code of faultCodes) {
    const fault = new Fault(code, "words");
    t.ok(statusOf(fault) >= 400 && statusOf(fault) < 600);
    t.match(toProblem(fault, "r1"), {
      status: statusOf(fault),
      code,
      reason: fault.reason,
      request_id: "r1",
    });
  }
  t.equal(statusOf(new Fault("stale", "x", { reason: "PRECONDITION_FAILED" })), 412);
  t.equal(
    headersOf(new Fault("unavailable", "x", { detail: { retry_after_seconds: 6.5 } }))["Retry-After"],
    "7",
  );
  t.equal(headersOf(new Fault("conflict", "x"))["Retry-After"], undefined);
});

void t.test("canonical JSON", async (t) => {
  t.equal(canonical({ b: [1, { d: "x", c: null }], a: undefined }), '{"b":[1,{"c":null,"d":"x"}]}');
  t.equal(canonical(undefined), "null");
  t.not(canonical({ a: "1" }), canonical({ a: 1 }));
});

void t.test("bounded cache", async (t) => {
  const cache = new BoundedCache<number>(2);
  cache.set("a", 1);
  cache.set("b", 2);
  t.equal(cache.get("a"), 1);
  cache.set("c", 3);
  t.equal(cache.get("b"), undefined, "used longest ago");
  t.equal(cache.get("a"), 1);
  t.equal(cache.get("c"), 3);
});

void t.test("ranges of metrics", async (t) => {
  const now = Date.parse("2025-10-31T12:00:00Z");
  const at = (text: string) => new Date(text);
  t.same(resolveRange({ start: undefined, end: undefined }, now), {
    start: at("2025-10-31T11:00:00Z"),
    end: new Date(now),
  });
  for (const [start, end] of [
    ["2025-10-31", "2025-10-31"],
    ["2025-10-31", "2025-10-30"],
    ["2020-01-01", "2025-10-31"],
  ] as const) {
    t.equal(await reasonOf(() => resolveRange({ start: at(start), end: at(end) }, now)), "RANGE_INVALID");
  }
});

void t.test("server-sent events", async (t) => {
  const textOf = (answer: RawAnswer) => {
    const seen = { text: "", ended: false };
    const stream = answer.raw as Readable;
    stream.on("data", (chunk: Buffer) => (seen.text += chunk.toString()));
    stream.on("close", () => (seen.ended = true));
    return { seen, stream };
  };
  const options = { retryMs: 7, heartbeatMs: 5 };
  let returned = 0;
  const source = (queue: WatchEvent[], hold?: Promise<void>): AsyncIterable<WatchEvent> => ({
    async *[Symbol.asyncIterator]() {
      try {
        yield* queue;
        await hold;
      } finally {
        returned++;
      }
    },
  });
  const all = textOf(
    toEventStream(
      source([{ type: "synced" }, { type: "removed", id: "vm-1" }]),
      new AbortController().signal,
      options,
    ),
  );
  await until(() => all.seen.ended);
  t.equal(all.seen.text, 'retry: 7\n\nevent: synced\ndata: {}\n\nevent: removed\ndata: {"id":"vm-1"}\n\n');

  const controller = new AbortController();
  const quiet = textOf(toEventStream(source([], aborted(controller.signal)), controller.signal, options));
  await until(() => quiet.seen.text.split(": still here").length > 3);
  controller.abort();
  await until(() => quiet.seen.ended);

  const left = new AbortController();
  const gone = textOf(toEventStream(source([], aborted(left.signal)), left.signal, options));
  await until(() => gone.seen.text.includes("retry"));
  gone.stream.destroy();
  left.abort();
  await until(() => returned === 3);
  t.equal(returned, 3, "every watch was let go");

  const failing = textOf(
    toEventStream(
      {
        async *[Symbol.asyncIterator]() {
          yield { type: "synced" } as const;
          throw new Fault("unavailable", "the database is away");
        },
      },
      new AbortController().signal,
      options,
    ),
  );
  let failure: Error | undefined;
  failing.stream.on("error", (error) => (failure = error));
  await until(() => failing.seen.ended);
  t.match(
    failure,
    { code: "unavailable" },
    "a broken watch breaks the stream, so that the client comes again",
  );
});

const aborted = (signal: AbortSignal) =>
  new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
