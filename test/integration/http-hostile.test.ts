/** Thousands of requests that nobody in his right mind would send: never 5xx, and what is refused changes nothing. */
import { Agent, request as httpRequest } from "node:http";
import fc from "fast-check";
import t from "tap";
import { errorSchema } from "#cp/dialects/novacron/errors.ts";
import { problemSchema } from "#cp/http/faults.ts";
import { newId } from "#kernel/id.ts";
import { hostId, startApi, type World } from "#test/support/api-world.ts";

const runs = 400;
const requestsPerRun = 6;

interface Hostile {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | Buffer | undefined;
}
interface Outcome {
  readonly status: number;
  readonly text: string;
}

const nasty = fc.constantFrom(
  "",
  " ",
  "'; drop table resource; --",
  '" or 1=1 --',
  "$(reboot)",
  "`id`",
  "| cat /etc/passwd",
  "../../../../etc/passwd",
  "..%2f..%2fetc%2fpasswd",
  "%00",
  "%ff%fe",
  "%",
  "\u0000",
  "\ud800",
  "\u202e\u0007",
  "{{7*7}}",
  "${jndi:ldap://x}",
  "<script>",
  "a\r\nSet-Cookie: x=1",
  "x".repeat(5000),
  "constructor",
  "__proto__",
  "toString",
  "NaN",
  "null",
);
const text = fc.oneof(nasty, fc.string({ unit: "binary", maxLength: 40 }), fc.string({ maxLength: 300 }));
const number = fc.oneof(
  fc.constantFrom(-1, 0, 0.5, -0, 1e308, -1e308, 2 ** 53, 2 ** 63, Number.MIN_VALUE, 4e9),
  fc.double({ noNaN: true, noDefaultInfinity: true }),
  fc.integer(),
);
const value = fc.oneof(
  text,
  number,
  fc.constantFrom(true, null, [], {}, [[]], { a: { b: { c: {} } } }),
  fc.jsonValue({ maxDepth: 3 }),
) as fc.Arbitrary<unknown>;
const headerText = fc.string({ unit: fc.constantFrom(..."abc 0129\"'*,;=W/-$`|(){}"), maxLength: 40 });

/** A good body with one field spoilt, one added, or both. */
const spoilt = (good: Record<string, unknown>) =>
  fc
    .tuple(fc.constantFrom(...Object.keys(good)), value, fc.option(fc.tuple(text, value), { nil: undefined }))
    .map(([field, spoil, extra]) => ({ ...good, [field]: spoil, ...(extra && { [extra[0]]: extra[1] }) }));

const vmBody = spoilt({
  name: "n",
  provider: "aws",
  region: "us-east-1",
  cpu: 1,
  memory: 2 ** 29,
  disk: 2 ** 32,
  image: "micro",
  network: "default",
  tags: { a: "b" },
});
const vmPatch = spoilt({ name: "n", cpu: 2, memory: 2 ** 29, disk: 2 ** 33, tags: { a: "b" } });
const instanceBody = fc.oneof(
  spoilt({ name: "n", labels: { a: "b" }, spec: { image: "micro" } }),
  fc.record({
    name: text,
    labels: fc.dictionary(text, text, { maxKeys: 2 }),
    spec: spoilt({
      image: "micro",
      cpus: 1,
      ssh_keys: [],
      user_data: "",
      forwards: [],
      hostname: "h",
      power: "on",
    }),
  }),
);
const instancePatch = fc.record({
  spec: spoilt({ cpus: 2, memory_bytes: 2 ** 29, disk_bytes: 2 ** 33, restarts: 0 }),
});
const imageBody = fc.record({
  name: text,
  spec: fc.record({
    source: fc.oneof(value, spoilt({ type: "url", url: "http://h/x" }), fc.constant({ type: "upload" })),
    aliases: fc.oneof(value, fc.array(text, { maxLength: 3 })),
  }),
});
const loginBody = fc.oneof(spoilt({ username: "admin", password: "p" }), spoilt({ refresh_token: "rt_x" }));

const jsonBody = fc
  .oneof(vmBody, vmPatch, instanceBody, instancePatch, imageBody, loginBody, value)
  .map((body) => JSON.stringify(body) ?? "");

const body = fc.oneof(
  { weight: 8, arbitrary: jsonBody },
  { weight: 1, arbitrary: jsonBody.map((whole) => whole.slice(0, -1)) },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)) },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      "[".repeat(2000),
      `{"a":${"[".repeat(40)}${"]".repeat(40)}}`,
      '{"__proto__":{"role":"admin"}}',
    ),
  },
  { weight: 1, arbitrary: fc.constant(undefined) },
);

const idOf = (known: readonly string[]) =>
  fc.oneof(
    { weight: 3, arbitrary: fc.constantFrom(...known) },
    {
      weight: 1,
      arbitrary: fc.constantFrom(
        newId("vm"),
        newId("i"),
        newId("img"),
        newId("job"),
        "vm-",
        "vm",
        "-",
        ".",
        "..",
      ),
    },
    { weight: 1, arbitrary: nasty },
    { weight: 1, arbitrary: fc.string({ maxLength: 30 }) },
  );

const query = fc.oneof(
  { weight: 5, arbitrary: fc.constant("") },
  {
    weight: 2,
    arbitrary: fc
      .array(
        fc.tuple(
          fc.oneof(
            fc.constantFrom(
              "page",
              "limit",
              "provider",
              "status",
              "phase",
              "name",
              "label.a",
              "cursor",
              "start_time",
              "end_time",
              "host",
              "resource",
            ),
            text,
          ),
          fc.oneof(
            text,
            number.map(String),
            fc.constantFrom(
              "running",
              "WyI5OTk5LTk5LTk5IDAwOjAwIiwieCJd",
              "2025-02-30",
              "0001-01-01",
              "9999-12-31T23:59:59Z",
            ),
          ),
        ),
        { maxLength: 3 },
      )
      .map((pairs) => `?${pairs.map(([key, given]) => `${encode(key)}=${encode(given)}`).join("&")}`),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom("?%", "?%00=1", "?a=%ff", "?=", "?&&&", "??", "?label.=x", "?.=x"),
  },
);

const oddHeaders = fc.record(
  {
    "if-match": headerText,
    "if-none-match": headerText,
    "idempotency-key": headerText,
    "content-type": fc.constantFrom(
      "application/json",
      "application/json; charset=utf-8",
      "text/plain",
      "multipart/form-data",
      "",
      "garbage",
    ),
    accept: fc.constantFrom("application/problem+json", "*/*", "text/html"),
    "x-request-id": headerText,
  },
  { requiredKeys: [] },
);

// Mostly plain: an odd header is refused before the body is looked at.
const headers = fc.oneof({ weight: 4, arbitrary: fc.constant({}) }, { weight: 1, arbitrary: oddHeaders });

// Lone surrogates cannot be sent in a URL at all.
const encode = (given: string) => encodeURIComponent(given.replace(/\p{Surrogate}/gu, "?"));

function hostile(known: readonly string[]): fc.Arbitrary<Hostile> {
  const id = idOf(known).map((given) => (/^(\.\.)?%[\w%.]*$/.test(given) ? given : encode(given)));
  const path = fc.oneof(
    fc.constantFrom(
      "/v1/vms",
      "/skerry/v1/instances",
      "/skerry/v1/images",
      "/skerry/v1/hosts",
      "/skerry/v1/operations",
      "/skerry/v1/enrolment-tokens",
      "/skerry/v1/api-keys",
      "/v1/auth/login",
      "/v1/auth/refresh",
      "/v1/metrics/system",
    ),
    id.map((given) => `/v1/vms/${given}`),
    fc
      .tuple(id, fc.constantFrom("start", "stop", "restart", "metrics", "migrate", "constructor"))
      .map(([given, verb]) => `/v1/vms/${given}/${verb}`),
    fc
      .tuple(
        fc.constantFrom(
          "instances",
          "images",
          "hosts",
          "operations",
          "enrolment-tokens",
          "api-keys",
          "__proto__",
        ),
        id,
      )
      .map(([plural, given]) => `/skerry/v1/${plural}/${given}`),
    fc
      .tuple(
        id,
        fc.constantFrom("start", "placement", "metrics", "console", "console/log", "cordon", "toString"),
      )
      .map(([given, verb]) => `/skerry/v1/instances/${given}/${verb}`),
    fc.string({ maxLength: 40 }).map((given) => `/${encode(given)}`),
    id.map((given) => `/v1/edge/${given}`),
  );
  const anything = fc
    .record({
      method: fc.constantFrom("GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"),
      path: fc.tuple(path, query).map(([one, two]) => one + two),
      headers,
      body,
    })
    .filter(({ path: one }) => !one.includes("watch"));
  return fc.oneof(anything, aimed(known[0] ?? ""));
}

/** Requests that are right but for what their body says. */
function aimed(vm: string): fc.Arbitrary<Hostile> {
  const at = (method: string, path: string, given: fc.Arbitrary<unknown>) =>
    given.map((one) => ({ method, path, headers: {}, body: JSON.stringify(one) }));
  return fc.oneof(
    at("POST", "/v1/vms", vmBody),
    at("PATCH", `/v1/vms/${vm}`, vmPatch),
    at("POST", "/skerry/v1/instances", instanceBody),
    at("PATCH", `/skerry/v1/instances/${vm}`, instancePatch),
    at("POST", "/skerry/v1/images", imageBody),
    at("POST", "/skerry/v1/api-keys", fc.record({ name: text })),
    at("POST", "/v1/auth/login", loginBody),
    at("POST", "/v1/auth/refresh", loginBody),
  );
}

void t.test("hostile requests", async (t) => {
  const world = await startApi(t);
  const agent = new Agent({ keepAlive: true, maxSockets: requestsPerRun });
  t.teardown(() => agent.destroy());
  const created = await world.call("POST", "/skerry/v1/instances", { name: "n", spec: { image: "micro" } });
  const images = await world.call("GET", "/skerry/v1/images");
  const [image] = images.body["items"] as { id: string }[];
  const known = [String(created.body["id"]), hostId, image?.id ?? ""];
  const count = { refused: 0, accepted: 0 };

  await fc.assert(
    fc.asyncProperty(
      fc.array(hostile(known), { minLength: requestsPerRun, maxLength: requestsPerRun }),
      async (requests) => {
        const before = await stateOf(world);
        const outcomes = await Promise.all(requests.map((one) => send(world, agent, one)));
        outcomes.forEach((outcome, i) => check(outcome, requests[i]));
        const accepted = outcomes.filter(({ status }, i) => status < 300 && changes(requests[i])).length;
        count.accepted += accepted;
        count.refused += outcomes.filter(({ status }) => status >= 400).length;
        if (accepted > 0) return;
        const after = await stateOf(world);
        if (after !== before) throw new Error(`refused, yet changed: ${before} -> ${after}`);
      },
    ),
    { numRuns: runs, endOnFailure: true },
  );
  t.ok(count.refused > runs, `${String(count.refused)} were refused, ${String(count.accepted)} were taken`);
  t.equal((await world.call("GET", "/healthz")).status, 200, "and the server is as well as before");
  t.equal(({} as Record<string, unknown>)["role"], undefined);
});

const changes = (request: Hostile | undefined) =>
  !["GET", "HEAD", "OPTIONS"].includes(request?.method ?? "GET");

async function stateOf({ database }: World): Promise<string> {
  const [row] = await database.query(
    `select (select count(*) || ' ' || coalesce(sum(revision), 0) || ' ' || coalesce(md5(string_agg(desired::text || labels || name, ',' order by id)), '') from resource) as resources,
            (select count(*) from api_key) as keys, (select count(*) from account) as accounts`,
  );
  return JSON.stringify(row);
}

function check({ status, text }: Outcome, request: Hostile | undefined): void {
  const told = `${request?.method ?? ""} ${request?.path ?? ""} -> ${String(status)} ${text.slice(0, 300)}`;
  // 503 is honest where there is no agent: the test has none.
  const noAgent = status === 503 && /HOST_NOT_CONNECTED|no gateway in this test/.test(text);
  if (status >= 500 && !noAgent) throw new Error(`server error: ${told}`);
  if (status < 400 || request?.method === "HEAD") return;
  const problem = request?.headers["accept"] === "application/problem+json";
  const dialect = !problem && /^\/v1\/(vms|auth|metrics|edge)(\/|\?|$)/.test(request?.path ?? "");
  const parsed: unknown = JSON.parse(text);
  const shape = (dialect ? errorSchema : problemSchema).safeParse(parsed);
  if (!shape.success) throw new Error(`not the dialect's error: ${told}`);
}

function send(world: World, agent: Agent, { method, path, headers, body }: Hostile): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(
      {
        port: world.port,
        agent,
        method,
        path,
        headers: {
          authorization: `Bearer ${world.pair.access_token}`,
          ...Object.fromEntries(Object.entries(headers).map(([name, given]) => [name, given.trim()])),
          ...(body !== undefined && { "content-length": String(Buffer.byteLength(body)) }),
        },
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("end", () =>
          resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString() }),
        );
        response.on("error", reject);
      },
    );
    request.on("error", reject);
    request.end(body);
  });
}
