/** Who is asking, for all APIs alike: logins, tokens good and bad, locked accounts, and what a role may do. */
import { createHmac, generateKeyPairSync } from "node:crypto";
import t from "tap";
import { Tokens } from "#cp/app/tokens.ts";
import {
  caller,
  createInstance,
  createProject,
  hostId,
  password,
  signIn,
  startApi,
  username,
} from "#test/support/api-world.ts";

void t.test("identity", async (t) => {
  const world = await startApi(t);
  const { url, call } = world;
  const guest = caller(url);
  const login = (name: string, secret: string) =>
    guest("POST", "/v1/auth/login", { username: name, password: secret, mfa_code: "123456" });

  await t.test("logs in and refreshes, each refresh token once", async (t) => {
    const first = await login(username, password);
    t.equal(first.status, 200);
    t.match(first.body, {
      access_token: String,
      refresh_token: String,
      expires_in: 3600,
      token_type: "Bearer",
    });
    const refresh = (token: unknown) => guest("POST", "/v1/auth/refresh", { refresh_token: token });
    const second = await refresh(first.body["refresh_token"]);
    t.equal(second.status, 200);
    t.equal((await refresh(first.body["refresh_token"])).status, 401, "reuse");
    t.equal((await refresh(second.body["refresh_token"])).status, 401, "reuse ends the family");
    t.equal((await refresh("rt_nonsense")).status, 401);

    const third = await login(username, password);
    const own = caller(url, `Bearer ${String(third.body["access_token"])}`);
    const token = third.body["refresh_token"];
    t.equal((await own("POST", "/v1/auth/logout", { refresh_token: token })).status, 204);
    t.equal((await refresh(token)).status, 401);
  });

  await t.test("takes no token that is not good", async (t) => {
    const good = world.pair.access_token;
    const [header = "", payload = "", signature = ""] = good.split(".");
    const claims = JSON.parse(Buffer.from(payload, "base64url").toString()) as Record<string, unknown>;
    const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const foreignKey = generateKeyPairSync("ed25519").privateKey;
    const { kid, publicKey } = await world.keys.current();
    const foreign = new Tokens({
      keys: { find: async () => undefined, current: async () => ({ kid, privateKey: foreignKey }) },
      identities: { findGranted: async () => undefined, findByApiKey: async () => undefined },
    });
    const confused = `${part({ alg: "HS256" })}.${payload}`;
    const bad: Record<string, string | undefined> = {
      none: undefined,
      empty: "",
      basic: `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`,
      garbage: "Bearer garbage",
      "alg none": `Bearer ${part({ alg: "none" })}.${payload}.`,
      "key confusion": `Bearer ${confused}.${createHmac(
        "sha256",
        publicKey.export({ type: "spki", format: "pem" }),
      )
        .update(confused)
        .digest("base64url")}`,
      "other claims": `Bearer ${header}.${part({ ...claims, role: "admin", sub: "other" })}.${signature}`,
      "other key": `Bearer ${(await foreign.issue({ id: "x", project: "root" }, { family: "x" })).token}`,
      "unknown key": "Token sk_nonsense",
      long: `Bearer ${"x".repeat(8000)}`,
    };
    for (const [name, authorization] of Object.entries(bad)) {
      const { status, headers, body } = await caller(url, authorization)("GET", "/v1/vms");
      t.equal(status, 401, name);
      t.match(headers.get("www-authenticate"), /^Bearer/);
      t.match(body, { error: { code: String, message: String, details: Object, timestamp: String } });
    }
    t.equal((await call("GET", "/v1/vms")).status, 200);
    world.clock.offsetMs = 3_601_000;
    const late = await call("GET", "/v1/vms");
    t.equal(late.status, 401, "expired, though it was seen before");
    t.match(late.body, { error: { code: "TOKEN_EXPIRED" } });
    world.clock.offsetMs = 0;
  });

  await t.test("locks an account after failures, and tells nothing of it", async (t) => {
    const unknown = await login("nobody", "wrong");
    t.equal(unknown.status, 401);
    for (let i = 0; i < 5; i++) t.equal((await login(username, "wrong")).status, 401);
    const locked = await login(username, password);
    t.equal(locked.status, 401);
    const words = ({ body }: typeof locked) => {
      const { code, message, details } = body["error"] as Record<string, unknown>;
      return { code, message, details };
    };
    t.same(words(locked), words(unknown));
    world.clock.offsetMs = 5 * 60_000 + 1;
    t.equal((await login(username, password)).status, 200);
    world.clock.offsetMs = 0;
  });

  await t.test("lets nobody do more than their role", async (t) => {
    const id = await createInstance(world, "guarded");
    const viewer = await signIn(world, { role: "viewer" });
    const operator = await signIn(world, { role: "operator" });
    const stranger = await signIn(world, { role: "operator", project: await createProject(world) });
    t.equal((await viewer("GET", `/skerry/v1/instances/${id}`)).status, 200);
    t.equal((await viewer("DELETE", `/skerry/v1/instances/${id}`)).status, 403);
    t.equal((await viewer("POST", "/v1/vms", { name: "x", image: "micro" })).status, 403);
    t.equal((await viewer("POST", `/v1/vms/${id}/start`)).status, 403);
    t.equal(
      (await operator("PATCH", `/skerry/v1/hosts/${hostId}`, { spec: { cordoned: true } })).status,
      403,
    );
    t.equal((await operator("GET", "/skerry/v1/enrolment-tokens")).status, 403);
    t.equal(
      (await operator("POST", "/skerry/v1/hosts/certificate", { certificate_request: "x" })).status,
      403,
    );
    for (const [method, path] of [
      ["GET", `/v1/vms/${id}`],
      ["DELETE", `/v1/vms/${id}`],
      ["POST", `/v1/vms/${id}/stop`],
      ["GET", `/skerry/v1/instances/${id}/console/log`],
      ["GET", `/v1/vms/${id}/metrics`],
    ] as const) {
      t.equal((await stranger(method, path)).status, 404, `${method} ${path}`);
    }
    t.match((await stranger("GET", "/v1/vms")).body, { vms: [], total: 0 });
  });
});
