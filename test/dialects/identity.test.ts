/** Tokens, second factors, quotas and rates, over HTTP. */
import { decodeProtectedHeader, SignJWT, importJWK, jwtVerify, type JWK } from "jose";
import t from "tap";
import { announceMs } from "#cp/app/signing-keys.ts";
import { stepOf, totpAt } from "#cp/app/totp.ts";
import { runInProcess } from "#test/support/command-line.ts";
import {
  caller,
  createInstance,
  createProject,
  password,
  signIn,
  startApi,
  type Answered,
} from "#test/support/api-world.ts";
import { until } from "#test/support/until.ts";

const rates = {
  novacron: {
    standard: [
      { limit: 5, seconds: 3600 },
      { limit: 100, seconds: 60 },
    ],
  },
};
const world = await startApi(t, { rates });
const guest = caller(world.url);
const idOf = ({ body }: Answered) => String(body["id"]);
const forged = (claims: Record<string, unknown>, at: { issued: number; expires: number; issuer?: string }) =>
  world.keys.current().then(({ kid, privateKey }) =>
    new SignJWT(claims)
      .setProtectedHeader({ alg: "EdDSA", kid })
      .setSubject(String(claims["sub"]))
      .setIssuer(at.issuer ?? "skerry")
      .setAudience("skerry")
      .setIssuedAt(at.issued)
      .setExpirationTime(at.expires)
      .sign(privateKey),
  );

void t.test("tokens of another issuer or time are refused, whoever signed them", async (t) => {
  const user = await signIn(world, { role: "viewer" });
  const claims = decodePayload(user.pair.access_token);
  const now = Math.floor(Date.now() / 1000);
  const cases = [
    ["a good one", { issued: now, expires: now + 60 }, 200],
    ["another issuer", { issued: now, expires: now + 60, issuer: "other" }, 401],
    ["expired", { issued: now - 100, expires: now - 50 }, 401],
    ["from the future", { issued: now + 600, expires: now + 900 }, 401],
    ["longer than tokens live", { issued: now - 4000, expires: now + 60 }, 401],
  ] as const;
  for (const [name, at, status] of cases) {
    const call = caller(world.url, `Bearer ${await forged(claims, at)}`);
    t.equal((await call("GET", "/skerry/v1/whoami")).status, status, name);
  }
  const unnamed = { ...claims, family: undefined };
  const call = caller(world.url, `Bearer ${await forged(unnamed, { issued: now, expires: now + 60 })}`);
  t.equal((await call("GET", "/skerry/v1/whoami")).status, 401, "of no login");
});

void t.test("a login ends everywhere with its family; keys rotate under those who hold tokens", async (t) => {
  const user = await signIn(world, { role: "operator" });
  t.equal((await user("GET", "/skerry/v1/whoami")).status, 200);
  const before = decodeProtectedHeader(user.pair.access_token).kid;
  t.equal((await world.call("POST", "/skerry/v1/token-keys/rotate")).status, 204);
  const published = await guest("GET", "/.well-known/jwks.json");
  const keys = published.body["keys"] as JWK[];
  t.equal(keys.length, 2);
  t.same(Object.keys(keys[0] ?? {}).sort(), ["alg", "crv", "kid", "kty", "use", "x"], "public halves only");
  const own = keys.find(({ kid }) => kid === before) ?? {};
  t.match((await jwtVerify(user.pair.access_token, await importJWK(own, "EdDSA"))).payload, { sub: user.id });
  const login = () => world.accounts.login({ username: user.username, password });
  t.equal(decodeProtectedHeader((await login()).access_token).kid, before, "announced, but not signing yet");
  world.clock.offsetMs = announceMs + 1000;
  const next = await login();
  t.not(decodeProtectedHeader(next.access_token).kid, before);
  world.clock.offsetMs = 0;
  t.equal((await user("GET", "/skerry/v1/whoami")).status, 200, "the old key's tokens are good");

  const first = await world.accounts.refresh(user.pair.refresh_token);
  t.equal((await guest("POST", "/v1/auth/refresh", { refresh_token: user.pair.refresh_token })).status, 401);
  const heir = caller(world.url, `Bearer ${first.access_token}`);
  t.match(await heir("GET", "/skerry/v1/whoami"), { status: 401, body: { reason: "SESSION_ENDED" } });
});

void t.test(
  "the services dialect hands out tokens for what stands in the Authorization header",
  async (t) => {
    const user = await signIn(world, { role: "operator" });
    const path = "/api/auth/token/";
    const basic = (secret: string) => `Basic ${Buffer.from(`${user.username}:${secret}`).toString("base64")}`;
    const get = (authorization?: string) => caller(world.url, authorization)("GET", path);
    const whoami = (token: unknown) => caller(world.url, `Bearer ${String(token)}`);

    const login = await get(basic(password));
    t.match(login, { status: 200, body: { expires_in: 3600, token_type: "Bearer" } });
    t.equal(login.headers.get("cache-control"), "no-store");
    const refreshed = await guest("POST", "/api/auth/refresh/", {
      refresh_token: login.body["refresh_token"],
    });
    t.equal((await whoami(refreshed.body["access_token"])("GET", "/skerry/v1/whoami")).status, 200);
    t.equal(
      (await guest("POST", path, { username: user.username, password })).status,
      200,
      "by POST as well",
    );

    const key = await user("POST", "/skerry/v1/api-keys", { name: "reader", read_only: true });
    const exchanged = await get(`Token ${String(key.body["api_key"])}`);
    t.equal(exchanged.body["refresh_token"], undefined, "a key needs none");
    const reader = whoami(exchanged.body["access_token"]);
    t.equal((await reader("GET", "/skerry/v1/instances")).status, 200);
    t.equal(
      (await reader("POST", "/api/v1/services/images/", { name: "x" })).status,
      403,
      "no more than the key",
    );
    t.equal((await user("DELETE", `/skerry/v1/api-keys/${idOf(key)}`)).status, 204);
    t.equal((await reader("GET", "/skerry/v1/instances")).status, 401, "and no longer");

    const wrong = [undefined, basic("wrong"), "Basic !", `Basic ${btoa("no colon")}`, "Token sk_unknown"];
    for (const authorization of wrong) t.equal((await get(authorization)).status, 401, String(authorization));
    const bearer = await get(`Bearer ${user.pair.access_token}`);
    t.equal(bearer.status, 401, "a token is not to be had for a token");
    const asked = `${path}?username=${user.username}&password=${encodeURIComponent(password)}`;
    t.equal((await guest("GET", asked)).status, 400, "nothing secret stands in a query");
    const logs = await world.call("GET", "/v1/audit/logs?action=auth.token");
    const handedOut = await world.call("GET", `/v1/audit/logs?action=auth.token&user_id=${user.id}`);
    t.match(
      handedOut.body,
      { events: [{ user_id: user.id, success: true, resource: "auth" }] },
      "and to whom",
    );
    t.ok(Number(logs.body["total"]) >= 5, "what was handed out, and what was not, is written down");
  },
);

void t.test("a second factor takes each code once", async (t) => {
  const made = await world.call("POST", "/v1/users", {
    username: "newuser",
    email: "newuser@example.com",
    roles: ["operator"],
    mfa_enabled: true,
    password,
  });
  t.match(made, {
    status: 201,
    body: { mfa_enabled: true, roles: ["operator"], email: "newuser@example.com" },
  });
  const { secret, recovery_codes: recovery } = made.body["mfa"] as {
    secret: string;
    recovery_codes: string[];
  };
  const login = (code?: string) =>
    guest("POST", "/v1/auth/login", { username: "newuser", password, mfa_code: code });
  t.match(await login(), { status: 401, body: { error: { code: "MFA_REQUIRED" } } });
  const now = stepOf(Date.now());
  const code = totpAt(secret, now);
  t.equal((await login(code === "000000" ? "000001" : "000000")).status, 401);
  t.equal((await login(code)).status, 200);
  t.equal((await login(code)).status, 401, "again");
  t.equal((await login(totpAt(secret, now - 1))).status, 401, "one from before");
  t.equal((await login(recovery[0])).status, 200);
  t.equal((await login(recovery[0])).status, 401, "a recovery code again");
  const stored = await world.call("GET", `/skerry/v1/users/${idOf(made)}`);
  t.notMatch(JSON.stringify(stored.body), new RegExp(secret));

  const person = await signIn(world, { role: "viewer" });
  const begun = await person("POST", "/skerry/v1/mfa");
  const own = String(begun.body["secret"]);
  t.equal((await person("POST", "/skerry/v1/mfa/confirm", { code: "12345" })).status, 400);
  const shown = totpAt(own, stepOf(Date.now()));
  t.equal((await person("POST", "/skerry/v1/mfa/confirm", { code: shown })).status, 200);
  t.equal((await person("POST", "/skerry/v1/mfa")).status, 409, "not over one that counts");
  const credentials = { username: person.username, password };
  t.match(await guest("POST", "/v1/auth/login", credentials), { status: 401 });
  t.equal((await world.call("DELETE", `/skerry/v1/users/${person.id}/mfa`)).status, 204);
  t.equal((await guest("POST", "/v1/auth/login", credentials)).status, 200);

  const thief = await signIn(world, { role: "viewer" });
  const theirs = String((await thief("POST", "/skerry/v1/mfa")).body["secret"]);
  // This step and the next are both taken, also when the next one begins meanwhile.
  const step = stepOf(Date.now());
  const confirmed = await thief("POST", "/skerry/v1/mfa/confirm", { code: totpAt(theirs, step) });
  t.equal(confirmed.status, 200);
  const take = (given: string) => thief("DELETE", "/skerry/v1/mfa", { code: given });
  for (let wrong = 0; wrong < 5; wrong++) t.match(await take("12345"), { status: 400 });
  const right = totpAt(theirs, step + 1);
  t.match(await take(right), { status: 400 }, "after five wrong codes not even the right one");
});

void t.test("passwords and second factors on the command line", async (t) => {
  const person = await signIn(world, { role: "viewer" });
  const env = { XDG_CONFIG_HOME: t.testdir({}), SKERRY_HOME: t.testdirName, SKERRY_URL: world.url };
  const run = (args: readonly string[], input = "") => runInProcess(args, env, { input });
  const login = ["login", "-u", person.username, "--password-stdin", "--url", world.url];
  t.match(await run(login, `${password}\n`), { code: 0 });

  const chosen = "another long enough password";
  t.match(await run(["password", "--password-stdin"], `${password}\n`), { code: 1, err: /1 of 2 lines/ });
  t.match(await run(["password", "--password-stdin"], `wrong\n${chosen}\n`), { code: /[^0]/, out: "" });
  t.match(await run(["password", "--password-stdin"], `${password}\n${chosen}\n`), { code: 0 });
  t.match(await run(["whoami"]), { code: 0 }, "logged in again");
  t.match(await run(login, `${password}\n`), { code: /[^0]/ }, "not with the old one");

  const begun = await run(["mfa", "enable", "-o", "json"]);
  const { secret } = JSON.parse(begun.out) as { secret: string };
  const confirmed = await run(["mfa", "confirm", totpAt(secret, stepOf(Date.now())), "-o", "json"]);
  const { recovery_codes: codes } = JSON.parse(confirmed.out) as { recovery_codes: string[] };
  t.match(await run(login, `${chosen}\n`), { code: /[^0]/ }, "a login takes a code");
  t.match(await run([...login, "--mfa-code", codes[0]!], `${chosen}\n`), { code: 0 });
  t.match(await run(["mfa", "disable", codes[1]!]), { code: 0 });
  t.match(await run(login, `${chosen}\n`), { code: 0 }, "and takes none any more");

  const admin = ["--token", world.pair.access_token, "--url", world.url];
  t.match(await run(["user", "password", person.username, "--password-stdin", ...admin], `${password}\n`), {
    code: 0,
  });
  t.match(await run(["whoami"]), { code: /[^0]/ }, "their logins have ended");
  t.match(await run(login, `${password}\n`), { code: 0 });
  t.match(await run(["user", "reset-mfa", person.username, ...admin]), { code: 0 });
});

void t.test("service accounts and keys that end", async (t) => {
  const robot = await world.call("POST", "/skerry/v1/users", {
    name: "robot",
    spec: { type: "service" },
    role: "operator",
  });
  t.notOk(robot.body["password"]);
  const path = `/skerry/v1/users/${idOf(robot)}/api-keys`;
  const made = await world.call("POST", path, { name: "ci", role: "operator", expires_in_seconds: 60 });
  t.match(made, { status: 201, body: { role: "operator", read_only: false, expires_at: /Z$/ } });
  const call = caller(world.url, `Token ${String(made.body["api_key"])}`);
  t.match(await call("GET", "/skerry/v1/whoami"), {
    status: 200,
    body: { username: "robot", role: "operator" },
  });
  t.ok(((await world.call("GET", path)).body["items"] as { last_used_at: string | null }[])[0]?.last_used_at);
  await world.database.query("update api_key set expires_at = now() where id = $1", [idOf(made)]);
  world.tokens.forget();
  t.match(await call("GET", "/skerry/v1/whoami"), { status: 401, body: { reason: "API_KEY_UNKNOWN" } });
  const admin = (await world.call("GET", "/skerry/v1/users?name=admin")).body["items"] as { id: string }[];
  const theirs = await world.call("POST", `/skerry/v1/users/${admin[0]?.id ?? ""}/api-keys`, { name: "x" });
  t.match(theirs, { status: 403, body: { reason: "NOT_A_SERVICE_ACCOUNT" } });
});

void t.test("a quota holds against fifty callers at once", async (t) => {
  const project = await createProject(world);
  const limits = { spec: { quota: { instances: 10, cpus: 15 } } };
  t.equal((await world.call("PATCH", `/skerry/v1/projects/${project}`, limits)).status, 200);
  t.match(await world.call("PATCH", `/skerry/v1/projects/${project}`, { spec: { quota: { cpu: 1 } } }), {
    status: 400,
    body: { detail: "spec.quota.cpu: is no quota", details: { known: ["instances", "cpus"] } },
  });
  const member = await signIn(world, { role: "operator", project });
  const wish = (cpus: number) => ({ name: "x", spec: { image: "micro", cpus } });
  const answers = await Promise.all(
    Array.from({ length: 50 }, () => member("POST", "/skerry/v1/instances", wish(1))),
  );
  t.equal(answers.filter(({ status }) => status === 201).length, 10);
  const refused = answers.filter(({ status }) => status !== 201);
  t.equal(refused.length, 40);
  for (const { status, headers, body } of refused) {
    t.match(
      { status, body },
      { status: 429, body: { reason: "QUOTA_EXCEEDED", details: { quota: "instances", limit: 10 } } },
    );
    t.notOk(headers.get("retry-after"), "waiting does not help");
  }
  const [first] = answers.filter(({ status }) => status === 201);
  const path = `/skerry/v1/instances/${first ? idOf(first) : ""}`;
  t.match((await member("PATCH", path, { spec: { cpus: 7 } })).body, { reason: "QUOTA_EXCEEDED" });
  t.equal((await member("PATCH", path, { spec: { cpus: 6 } })).status, 202);
  t.equal((await member("DELETE", path)).status, 202);
  t.equal(
    (await member("POST", "/skerry/v1/instances", wish(1))).status,
    201,
    "what is being deleted counts no more",
  );
  const lines = (await member("GET", `/skerry/v1/projects/${project}/quota`)).body["items"];
  t.match(lines, [
    { name: "instances", used: 10, limit: 10 },
    { name: "cpus", used: 10, limit: 15 },
  ]);
  await createInstance(world, "elsewhere");
});

void t.test("a rate is that of all replicas together", async (t) => {
  const user = await signIn(world, { role: "viewer" });
  const { RateLimits } = await import("#cp/app/rate-limits.ts");
  const { silentLogger } = await import("#kernel/log.ts");
  const other = new RateLimits({ database: world.database, table: rates, log: silentLogger });
  const principal = { kind: "user", id: user.id, name: "", project: "root", role: "viewer" } as const;
  t.match(await other.take("novacron", principal, ""), { allowed: true });
  const answers: Answered[] = [];
  for (let i = 0; i < 5; i++) answers.push(await user("GET", "/v1/vms"));
  t.same(
    answers.map(({ status }) => status),
    [200, 200, 200, 200, 429],
  );
  t.same(
    answers.map(({ headers }) => headers.get("x-ratelimit-remaining")),
    ["3", "2", "1", "0", "0"],
  );
  const last = answers.at(-1);
  t.equal(last?.headers.get("x-ratelimit-limit"), "5");
  const reset = Number(last?.headers.get("x-ratelimit-reset"));
  t.ok(reset * 1000 > Date.now() && reset % 3600 === 0, "at the end of the hour");
  t.ok(Number(last?.headers.get("retry-after")) >= 1);
  t.match(last?.body, { error: { code: "RATE_LIMITED" } });
  t.equal((await user("GET", "/skerry/v1/whoami")).status, 200, "other APIs are counted apart");
  t.equal((await user("GET", "/v1/users")).status, 429, "denied requests are counted too");
});

void t.test("what is done and what is denied is written down, and cannot be changed unseen", async (t) => {
  const project = await createProject(world);
  const admin = await signIn(world, { role: "admin", project });
  const viewer = await signIn(world, { role: "viewer", project });
  const made = await admin("POST", "/skerry/v1/instances", { name: "web", spec: { image: "micro" } });
  const id = idOf(made);
  t.equal((await admin("PATCH", `/skerry/v1/instances/${id}`, { labels: { tier: "web" } })).status, 202);
  t.equal(
    (await viewer("DELETE", `/v1/vms/${id}`, undefined, { "x-request-id": "the-denied-one" })).status,
    403,
  );
  t.equal((await admin("POST", "/skerry/v1/api-keys", { name: "ci" })).status, 201);
  t.equal(
    (await admin("PUT", "/skerry/v1/password", { current: "wrong", password: "something new" })).status,
    403,
  );
  const day = new Date().toISOString().slice(0, 10);
  const logs = async (query: string) => (await admin("GET", `/v1/audit/logs?${query}`)).body;
  t.match(await logs(`user_id=${admin.id}&action=vm.create&start_time=${day}&end_time=${day}`), {
    events: [
      {
        id: /^audit-/,
        action: "vm.create",
        user_id: admin.id,
        resource: "vm",
        resource_id: id,
        timestamp: /Z$/,
        success: true,
        ip_address: /127\.0\.0\.1/,
      },
    ],
    total: 1,
    page: 1,
  });
  t.match(await logs("action=vm.delete"), {
    events: [
      {
        user_id: viewer.id,
        resource_id: id,
        success: false,
        reason: "ROLE_TOO_LOW",
        request_id: "the-denied-one",
      },
    ],
    total: 1,
  });
  t.match(await logs("action=api_key.create"), { events: [{ success: true }] });
  t.match(await logs("action=password.set"), { events: [{ success: false, reason: "PASSWORD_WRONG" }] });
  t.match(await logs("action=vm.create&end_time=2001-01-01"), { events: [], total: 0 });
  const kept = async (action: string) => {
    const sql = "select event from audit_event where event ->> 'action' = $2 and project = $1";
    return (await world.database.query<{ event: object }>(sql, [project, action]))[0]?.event;
  };
  t.match(await kept("instance.update"), { before: { labels: {} }, after: { labels: { tier: "web" } } });
  t.match(await kept("api_key.create"), { after: { name: "ci", role: "admin", read_only: false } });
  const events = JSON.stringify(await world.database.query("select event from audit_event"));
  t.notMatch(events, new RegExp(password));

  const verify = async () => (await admin("GET", "/skerry/v1/audit/verify")).body;
  await until(async () => (await verify())["events"] === 5); // a transaction that began before may still run
  t.match(await verify(), { project, intact: true, events: 5, broken_at: null, signed_by: /^tk-/ });
  await t.rejects(world.database.query("delete from audit_event where project = $1", [project]));
  await t.rejects(world.database.query("update audit_event set at = now() where project = $1", [project]));
  // Whoever owns the database can do it all the same, but not unseen.
  const tamper = (sql: string) =>
    world.database.transaction(async (tx) => {
      await tx.query("set local session_replication_role = replica");
      await tx.query(sql, [project]);
    });
  await tamper(
    "update audit_event set event = event || '{\"success\": true}' where project = $1 and seq = 3",
  );
  t.match(await verify(), { intact: false, broken_at: 3 });
  await tamper(
    "update audit_event set event = event || '{\"success\": false}' where project = $1 and seq = 3",
  );
  t.match(await verify(), { intact: true });
  await tamper("delete from audit_event where project = $1 and seq = 5");
  t.match(await verify(), { intact: false, broken_at: 5 }, "the end cannot be cut off");
});

function decodePayload(token: string): Record<string, unknown> {
  const payload = Buffer.from(token.split(".")[1] ?? "", "base64url").toString();
  return JSON.parse(payload) as Record<string, unknown>;
}
