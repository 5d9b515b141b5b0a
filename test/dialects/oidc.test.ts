/** Logging in by way of a provider that people have already. */
import t from "tap";
import { caller, startApi } from "#test/support/api-world.ts";
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
