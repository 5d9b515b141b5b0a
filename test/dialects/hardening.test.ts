/** What somebody with bad intentions tries, from outside and with a copy of the database. */
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { Accounts } from "#cp/app/accounts.ts";
import { AccountStore } from "#cp/app/account-store.ts";
import { networkOf } from "#cp/app/login-guard.ts";
import { Passwords } from "#cp/app/passwords.ts";
import { sealWhatIsOpen } from "#cp/app/sealed-again.ts";
import { Sealer } from "#cp/app/sealer.ts";
import { stepOf, totpAt } from "#cp/app/totp.ts";
import { services } from "#cp/dialects/services/dialect.ts";
import { KeyStore } from "#cp/store/keys.ts";
import { auditKeptMs, caller, createProject, password, signIn, startApi } from "#test/support/api-world.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const folder = await mkdtemp(join(tmpdir(), "skerry-seal-"));
t.teardown(() => rm(folder, { recursive: true }));
const world = await startApi(t, {
  secretKeyFile: join(folder, "secret.key"),
  headersTimeoutMs: 400,
  deadlineMs: 1_000,
});
const guest = caller(world.url);
const minuteMs = 60_000;

/** Everything that the database holds, as text. */
async function dump(): Promise<string> {
  const tables = await world.database.query<{ name: string }>(
    "select tablename as name from pg_tables where schemaname = 'public' order by 1",
  );
  const rows = await Promise.all(
    tables.map(({ name }) => world.database.query(`select to_jsonb(t)::text as row from ${name} t`)),
  );
  return JSON.stringify(rows);
}

await t.test(
  "a thousand wrong passwords lock out who tried them, not who is at home elsewhere",
  async (t) => {
    const { username } = await signIn(world, { role: "viewer" });
    const login = (address: string, given = password) =>
      reasonOf(world.accounts.login({ username, password: given, address }));
    t.equal(await login("192.0.2.1"), undefined, "the owner at home");
    for (let i = 0; i < 1000; i += 20) {
      const tries = Array.from({ length: 20 }, (_, n) =>
        login(`2001:db8:${(i + n).toString(16)}::1`, "wrong"),
      );
      for (const reason of await Promise.all(tries))
        t.ok(reason === "INVALID_CREDENTIALS" || reason === "LOGIN_BUSY");
    }
    t.equal(
      await login("198.51.100.9"),
      "INVALID_CREDENTIALS",
      "with the right password, from a strange place",
    );
    t.equal(await login("192.0.2.1"), undefined, "the owner at home again");
    const [rows] = await world.database.query<{ count: number }>(
      "select count(*)::int as count from login_address l join account a on a.id = l.account_id where username = $1",
      [username],
    );
    t.ok((rows?.count ?? 0) < 100, `${String(rows?.count)} addresses were remembered`);
    world.clock.offsetMs = 5 * minuteMs + 1000;
    t.equal(await login("198.51.100.9"), undefined, "a lock ends by itself");
    world.clock.offsetMs = 0;
    for (let i = 0; i < 5; i++) await login("192.0.2.1", "wrong");
    t.equal(await login("192.0.2.1"), "INVALID_CREDENTIALS", "from home a few are too many as well");
    t.same(
      ["::ffff:10.1.2.3", "2001:db8:1:2:3::4", "2001:db8::1", "::1", "fe80::1%eth0"].map(networkOf),
      ["10.1.2.3", "2001:db8:1:2::", "2001:db8:0:0::", "0:0:0:0::", "fe80:0:0:0::"],
      "a subscriber's network counts as one address",
    );
  },
);

await t.test("names cannot be found out, and logins cannot be a load", async (t) => {
  const passwords = new Passwords({ memoryCost: 8192, timeCost: 2 });
  const { id, username } = await signIn(world, { role: "viewer" });
  await world.database.query("update account set password_hash = $2 where id = $1", [
    id,
    await passwords.hash(password),
  ]);
  const store = new AccountStore(world.database);
  const nothing = {} as never;
  const accounts = new Accounts({
    store,
    passwords,
    sessions: nothing,
    identities: nothing,
    secondFactor: nothing,
    tokens: nothing,
  });
  const spent: Record<string, number[]> = { [username]: [], nobody: [] };
  for (let i = 0; i < 9; i++) {
    for (const [name, times] of Object.entries(spent)) {
      const from = performance.now();
      const wrong = { username: name, password: "wrong", address: `198.51.100.${String(i)}` };
      t.equal(await reasonOf(accounts.login(wrong)), "INVALID_CREDENTIALS");
      times.push(performance.now() - from);
    }
  }
  const [known = 0, unknown = 0] = Object.values(spent).map((times) => times.sort((a, b) => a - b)[4]);
  t.ok(known / unknown < 2 && unknown / known < 2, `${known.toFixed(1)} ms and ${unknown.toFixed(1)} ms`);

  const flood = (address: string | undefined) =>
    Promise.all(
      Array.from({ length: 100 }, () =>
        reasonOf(accounts.login({ username: "nobody", password: "x", address })),
      ),
    );
  const from = await Promise.all([
    flood("203.0.113.1"),
    reasonOf(accounts.login({ username: "nobody", password: "x", address: "203.0.113.2" })),
  ]);
  t.ok(from[0].filter((reason) => reason === "LOGIN_BUSY").length > 50, "one address has eight at a time");
  t.equal(from[1], "INVALID_CREDENTIALS", "and another has its turn");
});

await t.test("whoever ends logins ends those that are being renewed as well", async (t) => {
  for (let i = 0; i < 8; i++) {
    const user = await signIn(world, { role: "viewer" });
    const refresh = () => reasonOf(world.accounts.refresh(user.pair.refresh_token));
    const both = await Promise.all([refresh(), refresh()]);
    t.ok(both.includes("REFRESH_TOKEN_INVALID"), "a token that is used twice at once");
    const left = await world.database.query("select from refresh_token where account_id = $1", [user.id]);
    t.equal(left.length, 0, "leaves no login");
    const again = await world.accounts.login({ username: user.username, password });
    const set = world.call("PUT", `/skerry/v1/users/${user.id}/password`, { password: "another long one" });
    const outcome = await Promise.all([
      reasonOf(world.accounts.refresh(again.refresh_token)),
      reasonOf(world.accounts.login({ username: user.username, password })),
      set,
    ]);
    t.equal(outcome[2].status, 204);
    const after = await world.database.query("select from refresh_token where account_id = $1", [user.id]);
    t.equal(after.length, 0, "nor does one that is begun or renewed while the password is changed");
  }
});

await t.test("heads and bodies that never end", async (t) => {
  const talk = async (text: string, most = 64 * 1024) => {
    const socket = connect(world.port, "127.0.0.1");
    let answer = "";
    socket.on("data", (chunk: Buffer) => (answer += chunk.toString()).slice(0, most));
    socket.on("error", () => undefined); // cut off while it still sends
    socket.write(text);
    if (!socket.closed) await once(socket, "close");
    return answer.split("\r\n")[0];
  };
  const head = "GET /healthz HTTP/1.1\r\nHost: x\r\n";
  const authorization = `Authorization: Bearer ${world.pair.access_token}\r\n`;
  t.equal(
    await talk(`${head}X-Big: ${"x".repeat(1024 ** 2)}\r\n\r\n`),
    "HTTP/1.1 431 Request Header Fields Too Large",
  );
  t.equal(await talk(head), "HTTP/1.1 408 Request Timeout", "a head that is never finished");
  const body = `POST /v1/vms HTTP/1.1\r\nHost: x\r\n${authorization}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"name"`;
  t.equal(
    await talk(body),
    "HTTP/1.1 503 Service Unavailable",
    "a body that is never finished, and the line is closed",
  );
  t.match(await talk(`GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\nb\r\n\r\n`), /^HTTP\/1.1 400/);
  const deep = "[".repeat(200_000) + "]".repeat(200_000);
  const bomb = `POST /v1/vms HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${authorization}Content-Type: application/json\r\nContent-Length: ${String(deep.length)}\r\n\r\n${deep}`;
  t.equal(await talk(bomb), "HTTP/1.1 400 Bad Request", "a body that is deep");
});

await t.test("nothing that is sent becomes a line of the log or a header", async (t) => {
  const forged = 'x"}\r\n{"level":"error","event":"forged"}\u001b[2J\u202e';
  const before = world.lines.length;
  const encoded = encodeURIComponent(forged);
  const headers = { "x-request-id": '"},{"', "user-agent": '"} \u009b2J' };
  const odd = [
    await world.call("GET", `/v1/vms/${encoded}?page=${encoded}`, undefined, headers),
    await world.call("GET", `/v1/${encoded}`, undefined, headers),
    await guest("POST", "/v1/auth/login", { username: forged, password: "x" }),
    await world.call("POST", "/v1/vms", { name: forged, image: forged }),
    await world.call("POST", "/skerry/v1/api-keys", { name: forged }),
    await world.call("POST", "/v1/users", { username: forged, email: forged }),
    await world.call("GET", `/api/v1/services/instances/?page_size=1&search=${encoded}`),
  ];
  t.same(
    odd.map(({ status }) => status),
    [400, 404, 401, 400, 400, 400, 200],
  );
  const logged = world.lines.slice(before);
  t.same(
    logged.map(({ event, level }) => [event, level]),
    odd.map(() => ["http.request", "info"]),
    "one line each",
  );
  for (const { headers: answered } of odd) {
    t.match(answered.get("x-request-id"), /^[\w.:-]{1,64}$/);
    for (const [name, value] of answered) t.match(`${name}: ${value}`, /^[ -~]*$/, name);
  }
  // A list's link to its next page repeats the query.
  const request = {
    url: `/api/v1/services/instances/?name=${encoded}>;rel=x`,
    headers: { host: "a\r\nx-forged: 1" },
  };
  const page = { items: [], total: 2000, plural: "instances" };
  const asked = { query: {}, request, ctx: { requestId: "r", now: Date.now } };
  const { headers: linked } = services.paging.encode(page, { limit: 1000, offset: 0 }, asked);
  t.match(linked["Link"], /^<\/api\/v1\/services\/instances\/\?[!-~]*>; rel="next"$/);
  t.equal(linked["Link"]?.split(">").length, 2);
});

await t.test("a name that another has is refused in a change as well", async (t) => {
  const spec = { vcpus: 1, memory_bytes: 2 ** 29, disk_bytes: 2 ** 30 };
  await world.call("POST", "/skerry/v1/flavors", { name: "taken", spec });
  const made = await world.call("POST", "/skerry/v1/flavors", { name: "free", spec });
  const path = `/skerry/v1/flavors/${String(made.body["id"])}`;
  t.match(await world.call("PATCH", path, { name: "taken" }), {
    status: 409,
    body: { reason: "NAME_TAKEN" },
  });
});

await t.test("a path tells what it takes", async (t) => {
  const { status, headers, body } = await world.call("OPTIONS", "/api/v1/services/instances/");
  t.same([status, headers.get("allow")], [200, "GET, POST, OPTIONS"]);
  t.match(body["actions"], {
    POST: { name: { type: "string", required: true }, flavor: { type: "string", required: false } },
  });
});

await t.test("nothing is given to other origins", async (t) => {
  for (const method of ["GET", "OPTIONS"]) {
    const { headers } = await world.call(method, "/skerry/v1/instances", undefined, {
      origin: "https://evil.example",
      "access-control-request-method": "DELETE",
    });
    t.same(
      [...headers.keys()].filter((name) => /^(access-control|set-cookie)/.test(name)),
      [],
      method,
    );
  }
});

await t.test("secrets are in the answer that shows them, and nowhere else", async (t) => {
  const once = async (path: string, body: object, key: string) => {
    const first = await world.call("POST", path, body, { "idempotency-key": key });
    t.equal(first.status, 201, JSON.stringify(first.body));
    const second = await world.call("POST", path, body, { "idempotency-key": key });
    t.same(second.body, first.body, `${path} again is the same answer`);
    t.equal(second.headers.get("idempotent-replayed"), "true");
    const other = Object.fromEntries(
      Object.entries(body).map(([name, value]) => [name, /name$/.test(name) ? "other" : value]),
    );
    t.equal((await world.call("POST", path, other, { "idempotency-key": key })).status, 409);
    return first.body;
  };
  const person = await once(
    "/v1/users",
    { username: "keeper", mfa_enabled: true, roles: ["operator"] },
    "k1",
  );
  const chosen = "a password that somebody chose";
  await once("/skerry/v1/users", { name: "chooser", password: chosen }, "k2");
  const key = await once("/skerry/v1/api-keys", { name: "ci" }, "k3");
  const environment = { DSN: "postgresql://shop:hunter22@db" };
  const shop = { name: "shop", labels: { environment: "production" }, spec: { image: "a/b:1", environment } };
  await world.call("POST", "/skerry/v1/workloads", shop);
  const pair = await once("/skerry/v1/key-pairs", { name: "mine", spec: {} }, "k4");
  const factor = person["mfa"] as { secret: string; recovery_codes: string[] };
  const generated = String(person["password"]);
  const code = totpAt(factor.secret, stepOf(Date.now()));
  const login = { username: "keeper", password: generated };
  t.equal((await guest("POST", "/v1/auth/login", { ...login, mfa_code: code })).status, 200);
  const wrong = await guest("POST", "/v1/auth/login", { ...login, mfa_code: code });
  const tokens = (await guest("POST", "/v1/auth/login", { username: "chooser", password: chosen })).body;
  const forged = `${String(tokens["access_token"]).slice(0, -4)}AAAA`;
  const refused = await caller(world.url, `Bearer ${forged}`)("GET", "/v1/vms");
  const faulty = await world.call("POST", "/skerry/v1/users", { name: "", password: chosen, spec: 1 });
  const secrets: Record<string, string> = {
    "generated password": generated,
    "chosen password": chosen,
    "API key": String(key["api_key"]),
    "private key": String(pair["private_key"]).split("\n")[2] ?? "",
    "TOTP secret": factor.secret,
    "recovery code": factor.recovery_codes[0] ?? "",
    "refresh token": String(tokens["refresh_token"]),
    "access token": String(tokens["access_token"]).split(".")[2] ?? "",
    "forged token": forged.split(".")[2] ?? "",
  };
  const keys = new KeyStore(world.database, world.sealer);
  await keys.insertIfAbsent("ca", { privatePem: "-----BEGIN PRIVATE KEY-----", publicPem: "public" });
  t.match(await keys.find("ca"), { privatePem: "-----BEGIN PRIVATE KEY-----" });
  const places = {
    log: JSON.stringify(world.lines),
    errors: JSON.stringify([wrong.body, refused.body, faulty.body]),
    database: await dump(),
  };
  const audited = JSON.stringify(await world.database.query("select event from audit_event"));
  t.match(audited, /"environment":"production"/, "a label is no secret");
  t.notMatch(audited, /hunter22/, "what a workload is told in its environment");
  for (const [name, secret] of Object.entries(secrets)) {
    t.ok(secret.length > 5, `${name} is known`);
    for (const [place, text] of Object.entries(places))
      t.notOk(text.includes(secret), `${name} in the ${place}`);
  }
  t.notMatch(places.database, /PRIVATE KEY/, "keys are sealed");

  // What a release before this one has left.
  await world.database.query("update cloud_key set private_pem = 'in the clear' where name = 'ca'");
  t.equal(await sealWhatIsOpen(world.database, world.sealer), 1);
  t.equal(await sealWhatIsOpen(world.database, world.sealer), 0, "once");

  const sealingKey = (await readFile(join(folder, "secret.key"), "utf8")).trim();
  const given = await Sealer.open(join(folder, "not made"), sealingKey);
  t.equal(
    given.unseal(world.sealer.seal("words", "a place"), "a place"),
    "words",
    "the same key, not from a file",
  );
  t.throws(() => given.unseal(world.sealer.seal("words", "a place"), "another"));
  t.equal(await reasonOf(Sealer.open("", sealingKey.slice(4))), "SETTINGS_INVALID");
  t.match(await keys.find("ca"), { privatePem: "in the clear" });
  t.notMatch(await dump(), /in the clear/);
});

await t.test(
  "strangers leave a few traces; the log is verified by pages, and old events leave a gap",
  async (t) => {
    const count = async () => {
      const [row] = await world.database.query<{ n: number }>(
        "select count(*)::int as n from audit_event where event ->> 'user_id' = 'anonymous' and event ->> 'reason' = 'CREDENTIALS_MISSING'",
      );
      return row?.n ?? 0;
    };
    for (let i = 0; i < 30; i++) t.equal((await guest("GET", "/v1/vms")).status, 401);
    t.ok((await count()) > 0 && (await count()) <= 20, `${String(await count())} of 30 were written down`);

    const project = await createProject(world);
    const admin = await signIn(world, { role: "admin", project });
    for (let i = 0; i < 5; i++) await admin("POST", "/skerry/v1/api-keys", { name: `k${String(i)}` });
    t.match(await admin("GET", "/v1/audit/logs"), { body: { events: [{ username: admin.username }] } });
    const page = async (query = "") => (await admin("GET", `/skerry/v1/audit/verify?${query}`)).body;
    // Events wait for their places until every transaction that began before has ended, of other databases as well.
    await until(async () => (await page())["events"] === 5);
    const pages = [await page("limit=2")];
    while (pages.at(-1)?.["next"]) pages.push(await page(`limit=2&from=${String(pages.at(-1)?.["next"])}`));
    t.match(pages, [
      { intact: true, events: 2, signed_by: null },
      { intact: true, events: 4, signed_by: null },
      { intact: true, events: 5, signed_by: /^tk-/, next: null, gap: null },
    ]);
    t.match(
      await page(`from=2.${"0".repeat(64)}`),
      { intact: false, broken_at: 3 },
      "another beginning does not hold",
    );

    t.equal(await world.auditChain.retain(), 0, "nothing is old");
    world.clock.offsetMs = auditKeptMs + 3_600_000;
    t.ok((await world.auditChain.retain()) > 5);
    world.clock.offsetMs = 0;
    t.match(await page(), { intact: true, events: 5, gap: { events: 5 }, signed_by: /^tk-/ });
    await admin("POST", "/skerry/v1/api-keys", { name: "after" });
    await until(async () => (await page())["events"] === 6);
    await t.rejects(world.database.query("delete from audit_event where project = $1", [project]));
    await world.database.query("update audit_gap set seq = 6 where project = $1", [project]);
    t.match(await page(), { intact: false }, "a gap that nobody signed");
  },
);
