/**
 * Requests made from the documents that the server serves, good ones and spoilt ones, in a row on things that
 * come and go. SKERRY_SEED repeats a run; SKERRY_FAULTS=all sends a hundred thousand.
 */
import t from "tap";
import {
  caller,
  createProject,
  hostId,
  password,
  reportRunning,
  signIn,
  startApi,
  username,
} from "#test/support/api-world.ts";
import { ApiFuzzer } from "#test/support/api-fuzzer.ts";
import { seededRandom } from "#test/support/random.ts";

const all = process.env["SKERRY_FAULTS"] === "all";
const seed = Number(process.env["SKERRY_SEED"] ?? 1);
const requests = all ? 100_000 : 1_500;
/** How many of the operations a run is to reach in good form. */
const reachedShare = all ? 0.8 : 0.5;
const reportEvery = 15;
/** Requests may take a caller's rights away, or the caller. */
const lookAtMemberEvery = 200;
if (all) t.setTimeout(3_600_000);
t.comment(`seed ${String(seed)}: SKERRY_SEED repeats it`);

await t.test("the server keeps to its documents", async (t) => {
  const world = await startApi(t);
  const tenant = await createProject(world, "tenant");
  let member = await signIn(world, { role: "admin", project: tenant });
  const guest = caller(world.url);
  const documents: Record<string, unknown> = {};
  for (const name of Object.keys(world.documents)) {
    documents[name] = (await guest("GET", `/openapi/${name}.json`)).body;
  }
  const fuzzer = new ApiFuzzer({
    url: world.url,
    documents,
    random: seededRandom(seed),
    callers: [
      () => `Bearer ${world.pair.access_token}`,
      () => `Bearer ${member.pair.access_token}`,
      () => undefined,
    ],
    // There is no agent in this test, and no gateway.
    mayFail: (body) => /HOST_NOT_CONNECTED|no gateway in this test/.test(body),
    // These would end the login that everything is sent with.
    leaveOut: (method, path) => /\/(logout|password)$/.test(path),
  });
  fuzzer.know("username", username);
  fuzzer.know("password", password);
  for (let sent = 0; sent < requests; sent++) {
    if (sent % lookAtMemberEvery === 0 && (await member("GET", "/skerry/v1/whoami")).status !== 200)
      member = await signIn(world, { role: "admin", project: await createProject(world) });
    // The only host there is comes back after it was removed.
    if (sent % reportEvery === 0)
      await world.database.query(
        "update resource set deleting_at = null, phase = 'joining' where id = $1 and deleting_at is not null",
        [hostId],
      );
    await fuzzer.step();
    const instance = sent % reportEvery === 0 ? fuzzer.recall("instance_id") : undefined;
    if (typeof instance === "string") {
      await reportRunning(world, instance).catch(() => undefined);
    }
  }
  const bugs = world.lines.filter(({ level }) => level === "error");
  if (bugs.length > 0) t.comment(JSON.stringify(bugs.slice(0, 5), null, 1));
  t.same([...fuzzer.failures.values()], [], `seed ${String(seed)}`);
  const reached = fuzzer.succeeded.size / fuzzer.operations;
  const counts = [...fuzzer.statuses]
    .sort(([a], [b]) => a - b)
    .map(([status, n]) => `${String(status)}: ${String(n)}`);
  t.comment(
    `${String(requests)} requests, ${String(fuzzer.succeeded.size)} of ${String(fuzzer.operations)} operations; ${counts.join(", ")}`,
  );
  if (all) t.comment(`never reached: ${fuzzer.missed.join(", ")}`);
  t.ok(reached >= reachedShare, `${String(Math.round(reached * 100))} % of the operations were reached`);
  t.equal((await guest("GET", "/healthz")).status, 200);
});
