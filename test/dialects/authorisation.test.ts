/**
 * Who may do what, over every route there is: the table of routes is the list of cases, so that a route
 * that is added is tested without anybody thinking of it.
 */
import { readFile, writeFile } from "node:fs/promises";
import { request as httpRequest } from "node:http";
import path from "node:path";
import t from "tap";
import { z } from "zod";
import type { Route } from "#cp/http/route.ts";
import { root } from "#cp/local/programs.ts";
import { kinds } from "#cp/resources/kinds.ts";
import { roles, type Role } from "#kernel/ctx.ts";
import { newId, newIdSuffix } from "#kernel/id.ts";
import {
  caller,
  createInstance,
  createProject,
  reportRunning,
  signIn,
  startApi,
  type Answered,
} from "#test/support/api-world.ts";
import { sampleOf } from "#test/support/sample.ts";

type Call = ReturnType<typeof caller>;

const world = await startApi(t);
const routes = world.surfaces.flatMap((surface) => surface.routes);
const nameOf = ({ method, path }: Route) => `${method} ${path}`;
/** What a route takes as a rank: everybody, the roles, the cloud's administrators. */
const ranks = ["anyone", ...roles, "cloud-admin"] as const;
const rankOf = (route: Route) => ranks.indexOf(route.role);

const victim = await createProject(world, "victim");
const thief = await createProject(world, "thief");
const owner = await signIn(world, { role: "admin", project: victim });
const image = await owner("POST", "/skerry/v1/images", {
  name: "private",
  spec: { source: { type: "upload" } },
});
const ownerWorld = { ...world, call: owner as Call };
const instanceId = await createInstance(ownerWorld, "secret");
await reportRunning(world, instanceId);
const migration = await owner("POST", `/skerry/v1/instances/${instanceId}/migrate`, {});
const key = await owner("POST", "/skerry/v1/api-keys", { name: "own" });
const service = await owner("POST", "/skerry/v1/users", { name: "robot", spec: { type: "service" } });
const pair = await owner("POST", "/skerry/v1/key-pairs", { name: "victims-key", spec: {} });
const operationId = newId("op");
await world.database.query(
  `insert into operation (id, name, resource_id, kind, project, status, input)
   values ($1, 'instance.create', $2, 'instance', $3, 'done', '{}')`,
  [operationId, instanceId, victim],
);
const size = { vcpus: 1, memory_bytes: 2 ** 29, disk_bytes: 2 ** 30 };
const flavor = await owner("POST", "/skerry/v1/flavors", { name: "victims-flavor", spec: size });
const group = await owner("POST", "/skerry/v1/groups", { name: "victims-group", spec: { role: "admin" } });
const idOf = ({ body }: Answered) => String(body["id"]);

/** For each parameter of a path, by the collection before it, something that belongs to the victim. */
const belongings: Record<string, string> = {
  instances: instanceId,
  vms: instanceId,
  images: idOf(image),
  migrations: idOf(migration),
  operations: operationId,
  projects: victim,
  members: owner.id,
  users: idOf(service),
  "api-keys": idOf(key),
  "key-pairs": idOf(pair),
  flavors: idOf(flavor),
  groups: idOf(group),
};
// Kinds that nobody has thought of here: their own example.
for (const { plural, scope, access, example } of kinds) {
  if (belongings[plural] || scope === "cloud" || !access.create || !example) continue;
  const made = await owner("POST", `/skerry/v1/${plural}`, { name: example.name, spec: example.spec });
  if (made.status !== 201) throw new Error(`make one of ${plural} here: ${JSON.stringify(made.body)}`);
  belongings[plural] = idOf(made);
}
const unknownId = "none-00000000000000000000";
/** For each of them, an id that looks the same and is nobody's. */
const strangeIds = Object.fromEntries(
  Object.entries(belongings).map(([collection, id]) => [collection, id.replace(/[^-]*$/, newIdSuffix())]),
);

function pathWith(route: Route, ids: Readonly<Record<string, string>>): string {
  const segments = route.path.split("/");
  return segments
    .map((segment, i) => (segment.startsWith("{") ? (ids[segments[i - 1] ?? ""] ?? unknownId) : segment))
    .join("/");
}
const namesVictim = (route: Route) =>
  Object.keys(belongings).some((collection) => route.path.includes(`/${collection}/{`));

/** An answer without the ids that were asked for, and without what differs each time. */
const bare = ({ status, body }: Answered) => {
  const text = JSON.stringify(body, (name, value: unknown) =>
    /^(request_id|timestamp)$/.test(name) ? null : value,
  );
  const ids = [...Object.values(belongings), ...Object.values(strangeIds)].map((id) =>
    id.replace(/^.*-/, ""),
  );
  return { status, text: ids.reduce((cleaned, id) => cleaned.replaceAll(id, "ID"), text) };
};

/** The status of a WebSocket request. */
async function joins(path: string, authorization?: string): Promise<number> {
  const headers = {
    ...(authorization !== undefined && { authorization }),
    connection: "Upgrade",
    upgrade: "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
  };
  return new Promise((resolve, reject) => {
    const request = httpRequest(world.url + path, { headers });
    request.on("error", reject);
    request.on("response", (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    });
    request.on("upgrade", (_response, socket) => {
      socket.destroy();
      resolve(101);
    });
    request.end();
  });
}

/** What a watch tells until it has told everything that there is. */
async function present(path: string, authorization: string): Promise<string> {
  const stop = new AbortController();
  const response = await fetch(`${world.url}${path}?watch`, {
    headers: { authorization },
    signal: stop.signal,
  });
  let text = "";
  for await (const chunk of response.body ?? []) {
    text += Buffer.from(chunk as Uint8Array).toString();
    if (response.status !== 200 || text.includes("event: synced")) break;
  }
  stop.abort();
  return `${String(response.status)} ${text}`;
}

const bodyOf = (route: Route): unknown => {
  if (route.streams) return "content";
  const schema = route.bodyDoc ?? route.body;
  return schema && route.method !== "GET" ? sampleOf(schema) : undefined;
};

async function callRoute(call: Call, route: Route, ids = belongings): Promise<Answered> {
  const type = route.streams && { "content-type": route.streams.contentType };
  const headers = { accept: "application/problem+json", ...type };
  return call(route.method, pathWith(route, ids), bodyOf(route), headers);
}

/** What the victim has, as its owner sees it. */
async function belongingsNow(): Promise<unknown> {
  const paths = [
    `instances/${instanceId}`,
    `images/${idOf(image)}`,
    `flavors/${idOf(flavor)}`,
    `key-pairs/${idOf(pair)}`,
    `projects/${victim}`,
    `projects/${victim}/members`,
    `groups/${idOf(group)}`,
    `groups/${idOf(group)}/members`,
    `workloads/${String(belongings["workloads"])}`,
    `operations/${operationId}`,
    "users",
    "api-keys",
  ];
  return Promise.all(
    paths.map(async (path) => {
      const { body } = await owner("GET", `/skerry/v1/${path}`);
      const text = JSON.stringify(body, (name, value: unknown) => (name === "last_used_at" ? null : value));
      return JSON.parse(text) as unknown;
    }),
  );
}

/** What the audit log has of somebody. */
const writtenOf = (user: string) =>
  world.database.query("select from audit_event where event ->> 'user_id' = $1", [user]);

// A route that ends the caller's own login, or answers with what is no JSON, is called for the rule only.
const endsLogin = (route: Route) => /\/(logout|password)$/.test(route.path);

void t.test("every route has a rule, and the unusual ones are those that were thought about", async (t) => {
  t.same(routes.filter((route) => rankOf(route) < 0).map(nameOf), [], "no route without a rule");
  // What is the cloud's own is there for everybody whose role will do; of all else the victim has one.
  const everybodys = kinds.filter(({ scope }) => scope === "cloud").map(({ plural }) => plural);
  const named = new Set([...everybodys, ...Object.keys(belongings)]);
  const collections = routes.flatMap(({ path }) => path.match(/[^/]+(?=\/\{)/g) ?? []);
  const untried = new Set(collections.filter((each) => !named.has(each)));
  t.same([...untried], [], "no route that names what no other project is tried with: see `belongings`");
  // Usual: reading takes a viewer, changing an operator or more.
  const unusual = routes
    // A document, and what a path says of itself, are for everybody.
    .filter(({ path, method }) => !path.startsWith("/openapi/") && method !== "OPTIONS")
    .filter((route) =>
      route.method === "GET" || route.reads
        ? route.role !== "viewer"
        : rankOf(route) < ranks.indexOf("operator"),
    );
  const lines = unusual.map((route) => `${nameOf(route)} takes ${route.role}`).sort();
  const file = path.join(root, "test/golden/unusual-access.txt");
  if (process.env["SKERRY_UPDATE_GOLDEN"]) await writeFile(file, `${lines.join("\n")}\n`);
  const golden = await readFile(file, "utf8");
  t.strictSame(
    lines,
    golden.trim().split("\n"),
    "golden/unusual-access.txt (SKERRY_UPDATE_GOLDEN=1 writes it)",
  );
});

void t.test("nobody without a name, and nobody below the role", async (t) => {
  const before = await belongingsNow();
  const anonymous = caller(world.url);
  for (const route of routes.filter(({ role }) => role !== "anyone")) {
    t.equal((await callRoute(anonymous, route)).status, 401, `${nameOf(route)} as nobody`);
  }
  for (const role of roles) {
    const member = await signIn(world, { role, project: victim });
    const beyond = routes.filter((each) => rankOf(each) > ranks.indexOf(role));
    for (const route of beyond) {
      const { status, body } = await callRoute(member, route);
      t.match(
        { status, body },
        { status: 403, body: { reason: "ROLE_TOO_LOW" } },
        `${nameOf(route)} as ${role}`,
      );
    }
    t.equal((await writtenOf(member.id)).length, beyond.length, `each is in the audit log, of the ${role}`);
    if (role !== "admin") await world.call("DELETE", `/skerry/v1/projects/${victim}/members/${member.id}`);
    await world.call("DELETE", `/skerry/v1/users/${member.id}`);
  }
  t.same(await belongingsNow(), before, "nothing has changed");
});

void t.test("what belongs to another project does not exist", async (t) => {
  const before = await belongingsNow();
  for (const role of roles) {
    const stranger = await signIn(world, { role, project: thief });
    const allowed = routes.filter((each) => rankOf(each) <= ranks.indexOf(role) && !endsLogin(each));
    const changing: string[] = [];
    for (const route of allowed.filter(({ role: needed }) => needed !== "anyone")) {
      const answered = await callRoute(stranger, route);
      const { status, body } = answered;
      if ((route.method !== "GET" || route.changes) && !route.reads) changing.push(nameOf(route));
      const what = `${nameOf(route)} as the other project's ${role}`;
      t.ok(status < 500, `${what}: ${String(status)} ${JSON.stringify(body)}`);
      if (namesVictim(route)) {
        if (status !== 426) t.equal(status, 404, `${what}: ${JSON.stringify(body)}`);
        if (role === "admin") {
          t.same(
            bare(answered),
            bare(await callRoute(stranger, route, strangeIds)),
            `${what}, or what is nowhere`,
          );
        }
      }
      // The audit log repeats the ids that the caller itself has asked for.
      if (status < 300 && route.path !== "/v1/audit/logs") {
        const text = JSON.stringify(body);
        t.same(
          Object.values(belongings).filter((secret) => text.includes(secret)),
          [],
          `${what} shows nothing of it`,
        );
      }
    }
    const written = await writtenOf(stranger.id);
    t.ok(
      written.length >= changing.length,
      `${String(changing.length)} changes were tried, and written down`,
    );
  }
  t.same(await belongingsNow(), before, "nothing has changed");
});

const canWatch = ({ method, query }: Route) =>
  method === "GET" && query instanceof z.ZodObject && "watch" in query.shape;

void t.test("nor by a watch, a console, or what a body names", async (t) => {
  const stranger = await signIn(world, { role: "admin", project: thief });
  const bearer = `Bearer ${stranger.pair.access_token}`;
  for (const route of routes.filter((each) => "upgrade" in each)) {
    const path = pathWith(route, belongings);
    t.equal(await joins(path), 401, `${path} as nobody`);
    t.equal(await joins(path, bearer), 404, `${path} as a stranger`);
  }
  const watched = routes.filter(canWatch);
  t.ok(watched.length > 5, `${String(watched.length)} routes can be watched`);
  for (const route of watched) {
    const told = await present(pathWith(route, belongings), bearer);
    if (namesVictim(route)) t.match(told, /^404/, nameOf(route));
    const shown = Object.values(belongings).filter((id) => told.includes(id) && !namesVictim(route));
    t.same(shown, [], `${nameOf(route)}: ${told.slice(0, 200)}`);
  }
  const wish = (spec: object) => stranger("POST", "/skerry/v1/instances", { name: "x", spec });
  for (const [field, id, name] of [
    ["image", idOf(image), "private"],
    ["key_pair", idOf(pair), "victims-key"],
    ["flavor", idOf(flavor), "victims-flavor"],
  ] as const) {
    const asked = async (given: string) => {
      const { status, text } = bare(await wish({ image: "micro", [field]: given }));
      return {
        status,
        text: text.replaceAll(
          JSON.stringify(given)
            .slice(1, -1)
            .replace(/(?<=-).{20}$/, "ID"),
          "IT",
        ),
      };
    };
    const unknown = await asked("nothing-of-that-name");
    t.equal(unknown.status, 400, field);
    for (const given of [id, name]) t.same(await asked(given), unknown, `${field} ${given}`);
  }
});

void t.test("a key that only reads changes nothing, and a key does no more than its role", async (t) => {
  const made = await owner("POST", "/skerry/v1/api-keys", { name: "reader", read_only: true });
  const reader = caller(world.url, `Token ${String(made.body["api_key"])}`);
  const before = await belongingsNow();
  for (const route of routes.filter(
    (each) => (each.method !== "GET" || each.upgrade) && !each.reads && each.role !== "anyone",
  )) {
    const { status, body } = await callRoute(reader, route);
    t.match({ status, body }, { status: 403, body: { reason: /READ_ONLY_KEY|ROLE_TOO_LOW/ } }, nameOf(route));
  }
  t.equal((await reader("GET", `/v1/vms/${instanceId}`)).status, 200);
  t.same(await belongingsNow(), before);

  const low = await owner("POST", "/skerry/v1/api-keys", { name: "low", role: "viewer" satisfies Role });
  const viewer = caller(world.url, `Token ${String(low.body["api_key"])}`);
  t.equal((await viewer("DELETE", `/v1/vms/${instanceId}`)).status, 403);
  t.equal((await viewer("POST", "/skerry/v1/api-keys", { name: "up", role: "admin" })).status, 403);
});

void t.test("power over users ends where a project ends", async (t) => {
  const admin = await signIn(world, { role: "admin", project: thief });
  const made = await admin("POST", "/v1/users", { username: "mallory", roles: ["operator"] });
  t.match(made, { status: 201, body: { username: "mallory", roles: ["operator"], password: String } });
  const mallory = idOf(made);
  t.equal(
    (await admin("PUT", `/skerry/v1/users/${mallory}/password`, { password: "something long" })).status,
    204,
  );
  const plan = { spec: { plan: "enterprise" } };
  t.match((await admin("PATCH", `/skerry/v1/users/${mallory}`, plan)).body, { reason: "PLAN_DENIED" });
  // Made the cloud's administrator by one: the project's has no more say.
  t.equal(
    (await world.call("PUT", `/skerry/v1/projects/root/members/${mallory}`, { role: "admin" })).status,
    204,
  );
  for (const [method, path, body] of [
    ["PUT", "/password", { password: "something else" }],
    ["PATCH", "", { spec: { disabled: true } }],
    ["DELETE", "", undefined],
  ] as const) {
    const { status, body: answer } = await admin(method, `/skerry/v1/users/${mallory}${path}`, body);
    t.match({ status, answer }, { status: 403, answer: { reason: "BEYOND_PROJECT" } }, `${method} ${path}`);
  }
  t.equal(
    (await admin("PUT", `/skerry/v1/projects/root/members/${admin.id}`, { role: "admin" })).status,
    404,
  );
  t.match((await admin("DELETE", `/skerry/v1/users/${admin.id}`)).body, { reason: /OWN_ACCOUNT|NOT_FOUND/ });

  const role = await admin("POST", `/v1/users/${mallory}/roles`, { role_id: "role-viewer" });
  t.match(role, { status: 200, body: { roles: ["viewer"] } });
  t.equal((await admin("POST", `/v1/users/${mallory}/roles`, { role_id: "role-king" })).status, 400);
  const listed = await admin("GET", "/v1/users");
  t.match(listed, { status: 200, body: { page: 1, limit: 50, total: Number } });
  t.match((listed.body["users"] as object[]).at(-1), { id: mallory, username: "mallory", roles: ["viewer"] });

  const login = { username: "mallory", password: "something long", project: "thief" };
  const session = await caller(world.url)("POST", "/v1/auth/login", login);
  const asMallory = caller(world.url, `Bearer ${String(session.body["access_token"])}`);
  t.equal((await asMallory("GET", "/v1/vms")).status, 200);
  t.equal(
    (await world.call("PATCH", `/skerry/v1/users/${mallory}`, { spec: { disabled: true } })).status,
    200,
  );
  world.tokens.forget();
  t.equal((await asMallory("GET", "/v1/vms")).status, 401, "a disabled user's login has ended");
  t.equal((await caller(world.url)("POST", "/v1/auth/login", login)).status, 401);
  t.equal(
    (await world.call("DELETE", `/skerry/v1/projects/${victim}`)).status,
    409,
    "a project in use stays",
  );
});
