/** Groups: who has a role with others, by the native API, the SDK and the command line; and one's own password. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { Skerry } from "#sdk/index.ts";
import { caller, createProject, password, signIn, startApi, type Answered } from "#test/support/api-world.ts";
import { runInProcess } from "#test/support/command-line.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const world = await startApi(t);
const team = await createProject(world, "team");
const admin = await signIn(world, { role: "admin", project: team });
const idOf = ({ body }: Answered) => String(body["id"]);
const whoami = (call: typeof admin) => call("GET", "/skerry/v1/whoami");
const minuteMs = 60_000;

const whoamiOf = async (token: string) =>
  (await caller(world.url, `Bearer ${token}`)("GET", "/skerry/v1/whoami")).body;

/** A group of the team, and the path of a member of it. */
async function groupOf(role: string | null, name: string) {
  const made = await admin("POST", "/skerry/v1/groups", { name, spec: { role } });
  t.equal(made.status, 201, JSON.stringify(made.body));
  const path = `/skerry/v1/groups/${idOf(made)}`;
  return { id: idOf(made), path, member: ({ id }: { readonly id: string }) => `${path}/members/${id}` };
}

await t.test("members have the group's role from one request to the next", async (t) => {
  const ops = await groupOf("operator", "ops");
  const ann = await signIn(world, { role: "viewer", project: team });
  t.match(await whoami(ann), { body: { role: "viewer" } });
  t.equal((await admin("PUT", ops.member(ann))).status, 204);
  t.match(await whoami(ann), { body: { role: "operator" } });
  const made = await ann("POST", "/skerry/v1/instances", { name: "web", spec: { image: "micro", cpus: 1 } });
  t.equal(made.status, 201);
  const key = await ann("POST", "/skerry/v1/api-keys", { name: "mine" });
  const byKey = caller(world.url, `Token ${String(key.body["api_key"])}`);
  t.match(await byKey("GET", "/skerry/v1/whoami"), { body: { role: "operator" } });
  t.equal((await admin("PUT", ops.member(ann))).status, 204, "again is the same");

  const seen = await admin("GET", `/skerry/v1/projects/${team}/members`);
  const roles = (seen.body["items"] as { user_id: string; role: string; group: object | null }[])
    .filter(({ user_id }) => user_id === ann.id)
    .map(({ role, group }) => ({ role, group }));
  t.strictSame(roles, [
    { role: "viewer", group: null },
    { role: "operator", group: { id: ops.id, name: "ops" } },
  ]);
  t.match(await admin("GET", `/v1/users/${ann.id}`), { status: 404 }, "who was made elsewhere is not listed");

  t.equal((await admin("DELETE", ops.member(ann))).status, 204);
  t.match(await whoami(ann), { body: { role: "viewer" } });
  t.equal((await ann("DELETE", `/skerry/v1/instances/${idOf(made)}`)).status, 403);
  t.match(await byKey("GET", "/skerry/v1/whoami"), { body: { role: "viewer" } }, "nor do keys keep it");
  t.match(await admin("DELETE", ops.member(ann)), { status: 404, body: { reason: "USER_NOT_FOUND" } });

  const logs = await admin("GET", "/v1/audit/logs?action=group.members.set");
  t.match(logs.body, { total: 2, events: [{ resource: "group", resource_id: ops.id, success: true }] });
  const [kept] = await world.database.query<{ event: object }>(
    "select event from audit_event where event ->> 'action' = 'group.members.delete' and project = $1",
    [team],
  );
  t.match(kept?.event, { before: { user_id: ann.id, username: ann.username } });
});

await t.test("a group may be all that ties somebody to a project", async (t) => {
  const guests = await groupOf(null, "guests");
  const { id, username } = await signIn(world, { role: "viewer", project: team });
  await world.call("DELETE", `/skerry/v1/projects/${team}/members/${id}`);
  const login = () => world.accounts.login({ username, password, project: "team" });
  t.equal((await admin("PUT", guests.member({ id }))).status, 204);
  t.equal(await reasonOf(login()), "INVALID_CREDENTIALS", "a group without a role is none");
  const change = (role: string | null) => admin("PATCH", guests.path, { spec: { role } });
  t.equal((await change("viewer")).status, 200);
  const call = caller(world.url, `Bearer ${(await login()).access_token}`);
  t.match(await call("GET", "/skerry/v1/whoami"), { body: { role: "viewer", project: team } });
  t.match(
    await world.accounts.login({ username, password }).then(({ access_token }) => whoamiOf(access_token)),
    { project: team },
    "and where a login without a project leads",
  );
  await change("admin");
  await until(async () => (await call("GET", "/skerry/v1/groups")).status === 200);
  t.match((await call("DELETE", guests.path)).body, { reason: "OWN_ACCOUNT" });
  t.match((await call("PATCH", guests.path, { spec: { role: null } })).body, { reason: "OWN_ACCOUNT" });
  t.match((await call("DELETE", guests.member({ id }))).body, { reason: "OWN_ACCOUNT" });
  t.equal((await call("PATCH", guests.path, { labels: { floor: "2" } })).status, 200);
  t.match((await admin("PUT", guests.member(admin))).body, { reason: "OWN_ACCOUNT" });

  const elsewhere = await createProject(world);
  const stranger = await signIn(world, { role: "admin", project: elsewhere });
  const made = await stranger("POST", "/v1/users", { username: "shared", password });
  t.equal((await admin("PUT", guests.member({ id: idOf(made) }))).status, 204);
  t.match(
    (await stranger("DELETE", `/skerry/v1/users/${idOf(made)}`)).body,
    { reason: "BEYOND_PROJECT" },
    "a role by a group elsewhere is one elsewhere",
  );
  t.equal((await admin("DELETE", guests.path)).status, 204);
  await until(async () => (await call("GET", "/skerry/v1/whoami")).status === 401);
  t.equal((await admin("GET", guests.path)).status, 404);
  const named = await admin("POST", "/skerry/v1/groups", { name: "ops" });
  t.match(named, { status: 409, body: { reason: "NAME_TAKEN" } });
});

await t.test("by the SDK and the command line", async (t) => {
  const home = await mkdtemp(join(tmpdir(), "skerry-groups-"));
  t.teardown(() => rm(home, { recursive: true }));
  const env = {
    XDG_CONFIG_HOME: home,
    SKERRY_HOME: home,
    SKERRY_URL: world.url,
    SKERRY_TOKEN: admin.pair.access_token,
  };
  const skerry = async (line: string) => {
    const ran = await runInProcess(line.split(" "), env);
    t.equal(ran.code, 0, `${line}: ${ran.err}`);
    return ran.out;
  };
  const bob = await admin("POST", "/v1/users", { username: "bob", password, roles: ["viewer"] });
  t.match(await skerry("group create night --description on-call"), /^Made group night \(grp-\w{20}\)\.\n$/);
  t.match(await skerry("group add night bob"), /^bob: in night now\.\n$/);
  t.match(await skerry("role grant night operator --group"), /^night: operator\.\n$/);
  t.match(
    await skerry("group ls"),
    /^NAME +ID +ROLE +DESCRIPTION\n(?:.*\n)*night +grp-\w+ +operator +on-call\n/,
  );
  const shown = await skerry("group show night");
  t.match(shown, /^role: +operator$/m);
  t.match(shown, /^members: +bob$/m);
  const person = await skerry("user show bob");
  for (const line of [/^name: +bob$/m, /^phase: +active$/m, /^second factor: no$/m]) t.match(person, line);
  t.match(await skerry("project show"), /^has: +1 instances\n +1 cpus\n +512 MiB memory$/m);
  t.match(await skerry("role ls"), /^bob +operator +night +user-\w+$/m);
  const listed = await admin("GET", `/v1/users/${idOf(bob)}`);
  t.match(listed.body, { roles: ["operator"] }, "the highest role is the one that is shown");

  const cloud = new Skerry({ url: world.url, token: admin.pair.access_token });
  const { id } = await cloud.groups.find("night");
  t.same(await cloud.groups.members(id), [{ user_id: idOf(bob), username: "bob" }]);
  await cloud.groups.removeMember(id, idOf(bob));
  t.same(await cloud.groups.members(id), []);
  await cloud.groups.addMember(id, idOf(bob));
  t.match(await skerry("group remove night bob"), /no more/);
  t.match(await skerry("role grant night none --group"), /^night: none\.\n$/);
  t.match(await skerry("group rm night"), /^Deleted group night\.\n$/);
  const mistyped = await runInProcess(["group", "add", "ops", "bob", "nobody"], env);
  t.match(mistyped.err, /there is no user "nobody"/);
  const ops = await cloud.groups.find("ops");
  t.same(await cloud.groups.members(ops.id), [], "a mistyped name leaves nothing half done");
});

await t.test("wrong present passwords count like wrong logins", async (t) => {
  const user = await signIn(world, { role: "viewer" });
  const change = (current: string) =>
    user("PUT", "/skerry/v1/password", { current, password: "another that is long" });
  const login = () =>
    reasonOf(world.accounts.login({ username: user.username, password, address: "127.0.0.1" }));
  for (let i = 0; i < 5; i++)
    t.match(await change("wrong"), { status: 403, body: { reason: "PASSWORD_WRONG" } });
  t.match(await change(password), { status: 403, body: { reason: "PASSWORD_WRONG" } }, "locked out");
  t.equal(await login(), "INVALID_CREDENTIALS", "logins from there as well");
  world.clock.offsetMs = 5 * minuteMs + 1000;
  t.equal((await change(password)).status, 204, "a lock ends by itself");
  world.clock.offsetMs = 0;
});
