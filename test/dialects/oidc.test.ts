/** Logging in by way of a provider that people have already. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { Fault } from "#kernel/fault.ts";
import { configPath, loadConfig } from "#sdk/cli/config.ts";
import { caller, startApi } from "#test/support/api-world.ts";
import { runInProcess } from "#test/support/command-line.ts";
import { ScriptedCloud } from "#test/support/scripted-cloud.ts";
import { oidcClient, startOidcProvider, type Mischief, type Person } from "#test/support/oidc-provider.ts";

const provider = await startOidcProvider(t);
const world = await startApi(t, { oidc: { issuer: provider.issuer, ...oidcClient } });
const guest = caller(world.url);
const redirect_uri = "http://127.0.0.1:7777/back";
const ann: Person = { sub: "sub-ann", email: "Ann@example.org", email_verified: true };

async function begin(): Promise<string> {
  const { status, body } = await guest("POST", "/skerry/v1/oidc/begin", { redirect_uri });
  t.equal(status, 200, JSON.stringify(body));
  return String(body["authorization_url"]);
}
const finish = (answer: object) => guest("POST", "/skerry/v1/oidc/finish", answer);
const logIn = async (person: Person) => finish(provider.authorize(await begin(), person));

await t.test("a person is the user with the verified address, and stays it", async (t) => {
  const user = (name: string, spec: object) => world.call("POST", "/skerry/v1/users", { name, spec });
  const made = await user("ann", { email: "ann@example.org" });
  for (const name of ["twin-1", "twin-2"]) await user(name, { email: "twins@example.org" });
  const first = await logIn(ann);
  t.match(first, { status: 200, body: { token_type: "Bearer", expires_in: 3600, refresh_token: String } });
  const asAnn = caller(world.url, `Bearer ${String(first.body["access_token"])}`);
  t.match(await asAnn("GET", "/skerry/v1/whoami"), {
    status: 200,
    body: { username: "ann", role: "viewer" },
  });
  const refreshed = await guest("POST", "/v1/auth/refresh", { refresh_token: first.body["refresh_token"] });
  t.equal(refreshed.status, 200);
  t.equal((await logIn({ sub: "sub-ann" })).status, 200, "by the subject alone from now on");

  const unknown = { status: 403, body: { reason: "OIDC_USER_UNKNOWN" } };
  t.match(await logIn({ sub: "s1", email: "who@example.org", email_verified: true }), unknown, "nobody");
  t.match(
    await logIn({ ...ann, sub: "s2", email_verified: false }),
    unknown,
    "an address that anybody may claim",
  );
  t.match(await logIn({ sub: "s3", email: "twins@example.org", email_verified: true }), unknown, "two");
  const path = `/skerry/v1/users/${String(made.body["id"])}`;
  await world.call("PATCH", path, { spec: { disabled: true } });
  t.equal((await logIn(ann)).status, 401, "a disabled user");
  await world.call("PATCH", path, { spec: { disabled: false } });
});

await t.test("what is not quite right is refused", async (t) => {
  const answer = provider.authorize(await begin(), ann);
  t.match(await finish({ ...answer, state: "another" }), {
    status: 401,
    body: { reason: "OIDC_STATE_UNKNOWN" },
  });
  t.equal((await finish(answer)).status, 200);
  t.match(await finish(answer), { status: 401, body: { reason: "OIDC_STATE_UNKNOWN" } }, "a second time");
  // A code that was begun elsewhere, such as by somebody who wants another to be logged in as themselves.
  const [mine, theirs] = [provider.authorize(await begin(), ann), provider.authorize(await begin(), ann)];
  t.match(await finish({ state: mine.state, code: theirs.code }), {
    status: 401,
    body: { reason: "OIDC_REFUSED" },
  });
  const late = provider.authorize(await begin(), ann);
  world.clock.offsetMs = 11 * 60_000;
  t.equal((await finish(late)).status, 401, "too late");
  world.clock.offsetMs = 0;

  const now = Math.floor(Date.now() / 1000);
  const wrongs: Record<string, Mischief> = {
    "another key": { foreignKey: true },
    "another issuer": { claims: { iss: "https://evil.example" } },
    "for another client": { claims: { aud: "somebody-else" } },
    "another nonce": { claims: { nonce: "replayed" } },
    expired: { claims: { exp: now - 600 } },
    "for another party": { claims: { azp: "somebody-else" } },
  };
  for (const [name, wrong] of Object.entries(wrongs)) {
    provider.misbehave(wrong);
    t.match(await logIn(ann), { status: 401, body: { reason: "OIDC_REFUSED" } }, name);
  }
  provider.misbehave({});
  t.equal((await logIn(ann)).status, 200);
  t.equal(
    (await guest("POST", "/skerry/v1/oidc/begin", { redirect_uri: "javascript:alert(1)" })).status,
    400,
  );
  const stored = JSON.stringify(await world.database.query("select * from oidc_login"));
  t.notMatch(stored, new RegExp(mine.state), "states are kept as digests");
});

await t.test("the command line sends the browser there, and waits for it to come back", async (t) => {
  const home = await mkdtemp(join(tmpdir(), "skerry-oidc-"));
  t.teardown(() => rm(home, { recursive: true }));
  const env = { XDG_CONFIG_HOME: home, SKERRY_HOME: home };
  const login = ["--url", world.url, "login", "--oidc"];
  /** Logs in with a browser that does as it is told once the address is on the screen. */
  const withBrowser = async (
    browse: (authorizationUrl: string, back: string) => unknown,
    { args = [] as string[], signal = new AbortController().signal } = {},
  ) => {
    let browsing: unknown;
    const onNote = (text: string) => {
      const [address] = /http\S+/.exec(text) ?? [];
      const back = address && new URL(address).searchParams.get("redirect_uri");
      if (back) browsing ??= browse(address, back);
    };
    const ran = await runInProcess([...login, ...args], env, { signal, onNote });
    await browsing;
    return ran;
  };
  const visit = async (back: string, query: object) =>
    fetch(`${back}?${new URLSearchParams({ ...query }).toString()}`);

  const done = await withBrowser(async (address, back) => {
    t.match(back, /^http:\/\/127\.0\.0\.1:\d+\/callback$/);
    const answer = provider.authorize(address, ann);
    t.equal(
      (await visit(back, { ...answer, state: "a guess" })).status,
      404,
      "a stranger is not listened to",
    );
    t.equal((await fetch(`${new URL(back).origin}//`)).status, 404);
    t.equal((await visit(back, { state: answer.state })).status, 400, "nor is nothing a code");
    t.match(await (await visit(back, answer)).text(), /^Go back to the terminal/);
  });
  t.equal(done.code, 0, done.err);
  t.match(done.out, /^Logged in to http:\S+ \(profile default\)\.\n$/);
  t.notMatch(done.out + done.err, /access_token|refresh/);
  const { profiles } = await loadConfig(configPath(env));
  t.match(profiles["default"], { url: world.url, username: "ann", tokens: { refreshToken: /^rt_/ } });
  t.match(await runInProcess(["whoami"], env), { code: 0, out: /^user: +ann$/m });

  const refused = await withBrowser((address, back) =>
    visit(back, { state: provider.authorize(address, ann).state, error: "access_denied" }),
  );
  t.match(refused, { code: 4, err: /the identity provider says "access_denied" \(OIDC_DENIED\)/ });
  t.match(await withBrowser(() => undefined, { args: ["--timeout", "50ms"] }), { code: 3, err: /TIMEOUT/ });
  const interruption = new AbortController();
  const fault = new Fault("unavailable", "interrupted", { reason: "INTERRUPTED", retryable: false });
  let address = "";
  const stopped = await withBrowser(
    (_url, back) => {
      address = back;
      interruption.abort(fault);
    },
    { signal: interruption.signal },
  );
  t.equal(stopped.code, 130, stopped.err);
  await t.rejects(visit(address, {}), "nobody listens any more");

  const plain = await ScriptedCloud.start();
  t.teardown(() => plain[Symbol.asyncDispose]());
  const none = await runInProcess(["--url", plain.url, "login", "--oidc", "--profile", "other"], env);
  t.match(none, { code: 1, err: /this cloud has no identity provider \(OIDC_NOT_OFFERED\)/ });
  t.match(await runInProcess([...login, "--api-key", "sk_1"], env), { code: 2, err: /cannot be used with/ });
});
