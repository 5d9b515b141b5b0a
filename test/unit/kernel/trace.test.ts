/** Trace context: what is taken from callers, what is passed on, and what an agent's log says of it. */
import t from "tap";
import { ConnectError, createRouterTransport, createClient } from "@connectrpc/connect";
import { requestLogInterceptor } from "#agent/rpc/request-log.ts";
import { ConsoleService } from "#gen/skerry/agent/v1/console_pb.js";
import { createLogger } from "#kernel/log.ts";
import { childTraceparent, parseTraceparent, trailHeaders } from "#kernel/trace.ts";

const traceId = "4bf92f3577b34da6a3ce929d0e0e4736";
const given = `00-${traceId}-00f067aa0ba902b7-01`;

void t.test("a traceparent is taken as the standard says, and anything else is none", async (t) => {
  t.same(parseTraceparent(given), { traceId, flags: "01" });
  t.same(
    parseTraceparent(`cc-${given.slice(3)}-later`),
    { traceId, flags: "01" },
    "a later version may say more",
  );
  for (const wrong of [
    undefined,
    "",
    `${given}-more`,
    `ff-${given.slice(3)}`,
    given.toUpperCase(),
    `00-${"0".repeat(32)}-00f067aa0ba902b7-01`,
    `00-${traceId}-${"0".repeat(16)}-01`,
  ])
    t.equal(parseTraceparent(wrong), undefined, String(wrong));
});

void t.test("whom we call hears the same trace with another parent, and logs it", async (t) => {
  const trace = parseTraceparent(given)!;
  const child = childTraceparent(trace);
  t.same(parseTraceparent(child), trace);
  t.not(child, given);
  t.same(trailHeaders({ requestId: "r-1" }), { "x-request-id": "r-1" });

  const lines: unknown[] = [];
  const log = createLogger({ level: "info", write: (line) => lines.push(JSON.parse(line)) });
  const transport = createRouterTransport(
    (router) =>
      router.rpc(ConsoleService.method.readLog, () => Promise.reject(new ConnectError("no console"))),
    { router: { interceptors: [requestLogInterceptor(log)] } },
  );
  const { readLog } = createClient(ConsoleService, transport);
  await t.rejects(readLog({}, { headers: trailHeaders({ requestId: "r-1", trace }) }));
  await t.rejects(readLog({}, { headers: { "x-request-id": "not an id" } }));
  await t.rejects(readLog({}));
  t.match(lines, [{ event: "rpc.request", request_id: "r-1", trace_id: traceId, method: "ReadLog" }]);
  t.equal(lines.length, 1, "calls on nobody's behalf are not logged");
});

void t.test("nothing that is logged ends its line, forges another or reaches the terminal", async (t) => {
  const lines: string[] = [];
  const log = createLogger({ level: "info", write: (line) => lines.push(line) });
  const odd = 'x"}\r\n{"level":"error"}\u001b[2J\u009b1m\u007f\u202e\u2066\u2028\u2029\u0085';
  log.with({ principal: odd }).info("http.request", { path: odd, [odd]: 1 });
  log.warn("http.request", { error: new Error(odd), nested: [odd] });
  t.match(JSON.parse(lines[0] ?? ""), { level: "info", principal: odd, path: odd, [odd]: 1 });
  t.match(JSON.parse(lines[1] ?? ""), { level: "warn", error: { message: odd }, nested: [odd] });
  for (const line of lines) t.match(line, /^[ -~]+$/, "as it is read");
});
