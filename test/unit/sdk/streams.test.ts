import type { ServerResponse } from "node:http";
import t, { type Test } from "tap";
import { Skerry } from "#sdk/index.ts";
import type { RetryNotice } from "#sdk/index.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { anInstance, events, problem, ScriptedCloud } from "#test/support/scripted-cloud.ts";

const instances = "/skerry/v1/instances";
const web = anInstance();
const path = `${instances}/${web.id}`;

async function world(t: Test) {
  const server = await ScriptedCloud.start();
  t.teardown(() => server[Symbol.asyncDispose]());
  return { server, cloud: new Skerry({ url: server.url, apiKey: "sk_1" }) };
}

await t.test("a watch goes on over a broken connection: changes, removals, nothing twice", async (t) => {
  const { server, cloud } = await world(t);
  const db = anInstance({ id: "vm-1", name: "db" });
  const old = anInstance({ id: "vm-2", name: "old" });
  const stopped = anInstance({ phase: "stopped" });
  server.on(
    `GET ${instances}`,
    events(
      [
        ["present", web],
        ["present", db],
        ["present", old],
        ["synced", {}],
        ["removed", { id: "vm-9" }],
      ],
      true,
    ),
    events([
      ["present", stopped],
      ["present", db],
      ["synced", {}],
      ["changed", web],
    ]),
  );
  const seen: string[] = [];
  const notices: RetryNotice[] = [];
  const watching = cloud.instances.watch(
    { phase: "running" },
    { onReconnect: (notice) => notices.push(notice) },
  );
  for await (const event of watching) {
    if (event.type === "removed") seen.push(`removed ${event.id}`);
    else if (event.type === "synced") seen.push("synced");
    else seen.push(`${event.type} ${event.resource.name} ${event.resource.phase}`);
    if (seen.length === 7) break;
  }
  t.same(seen, [
    "present web running",
    "present db running",
    "present old running",
    "synced",
    "changed web stopped",
    "removed vm-2",
    "changed web running",
  ]);
  t.equal(notices.length, 1);
  t.equal(server.asked[1]?.query.toString(), "phase=running&watch=true");
});

await t.test(
  "a watch that is not allowed ends at once, one that falls silent is renewed, one that never works is given up",
  async (t) => {
    const { server, cloud } = await world(t);
    server.on(`GET ${instances}`, problem(403, "denied", "DENIED", "no"));
    await t.rejects(cloud.instances.watch().next(), { code: "denied" });
    t.equal(server.asked.length, 1);
    server.on(
      `GET ${instances}`,
      events([["present", web]]),
      events([
        ["present", web],
        ["synced", {}],
      ]),
    );
    const silent = cloud.instances.watch({}, { silenceMs: 150 });
    t.match((await silent.next()).value, { type: "present" });
    t.match((await silent.next()).value, { type: "synced" }, "from the second connection");
    await silent.return();
    server.on(`GET ${instances}`, problem(503, "unavailable", "AWAY", "away"));
    t.equal(await reasonOf(cloud.instances.watch({}, { attempts: 2 }).next()), "AWAY");
  },
);

await t.test("leaving a watch, or its signal, closes the connection", async (t) => {
  const { server, cloud } = await world(t);
  let closed = 0;
  const held = () => ({
    raw: (response: ServerResponse) => {
      response.on("close", () => closed++);
      events([["synced", {}]]).raw?.(response);
    },
  });
  server.on(`GET ${instances}`, held);
  for await (const _event of cloud.instances.watch()) break;
  const leaving = new AbortController();
  const watching = cloud.instances.watch({}, { signal: leaving.signal });
  await watching.next();
  const next = watching.next();
  leaving.abort();
  t.equal(await reasonOf(next), "CANCELLED");
  while (closed < 2) await new Promise((resolve) => setImmediate(resolve));
  t.equal(closed, 2);
});

await t.test(
  "waiting follows a resource to its phase, tells the way, and says why it stopped short",
  async (t) => {
    const { server, cloud } = await world(t);
    const building = anInstance({ phase: "building", observed_generation: 0 });
    server.on(
      `GET ${path}`,
      events([
        ["present", building],
        ["synced", {}],
        ["changed", web],
      ]),
    );
    const phases: string[] = [];
    const onChange = ({ phase }: { phase: string }) => phases.push(phase);
    const running = await cloud.instances.waitFor(web.id, { phases: ["running"], onChange });
    t.equal(running?.phase, "running");
    t.same(phases, ["building", "running"]);

    // The phase of before the change does not count: it has not been carried out yet.
    const behind = anInstance({ generation: 2, observed_generation: 1 });
    const caughtUp = anInstance({ generation: 2, observed_generation: 2 });
    server.on(
      `GET ${path}`,
      events([
        ["present", behind],
        ["synced", {}],
        ["changed", caughtUp],
      ]),
    );
    t.equal((await cloud.instances.waitFor(web.id, { phases: ["running"] }))?.observed_generation, 2);

    const why = {
      reason: "NO_CAPACITY",
      message: "all hosts are full",
      stuck: true,
      generation: 1,
      since: "",
    };
    server.on(`GET ${path}`, events([["present", anInstance({ phase: "failed", problem: why })]]));
    await t.rejects(cloud.instances.waitFor(web.id, { phases: ["running"] }), {
      code: "conflict",
      reason: "NO_CAPACITY",
      message: "web is failed: all hosts are full",
    });
    server.on(`GET ${path}`, events([["present", anInstance({ phase: "stopped" })]]));
    t.equal(await reasonOf(cloud.instances.waitFor(web.id, { phases: ["running"] })), "UNEXPECTED_PHASE");
  },
);

await t.test("waiting for the end of a resource, and for time to run out", async (t) => {
  const { server, cloud } = await world(t);
  const deleting = anInstance({ phase: "deleting" });
  server.on(
    `GET ${path}`,
    events([
      ["present", deleting],
      ["synced", {}],
      ["removed", { id: web.id }],
    ]),
  );
  t.equal(await cloud.instances.waitFor(web.id, { phases: ["deleted"] }), undefined);
  server.on(`GET ${path}`, problem(404, "notFound", "NOT_FOUND", "gone"));
  t.equal(await cloud.instances.waitFor(web.id), undefined);
  server.on(
    `GET ${path}`,
    events([
      ["present", deleting],
      ["synced", {}],
    ]),
  );
  t.equal(await reasonOf(cloud.instances.waitFor(web.id, { timeoutMs: 100 })), "TIMEOUT");
});

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

await t.test(
  "a console goes on where it was when its connection breaks, and takes what is typed",
  async (t) => {
    const { server, cloud } = await world(t);
    const offsets: (string | null)[] = [];
    const typed: string[] = [];
    server.onConsole((socket, { query, headers }) => {
      offsets.push(query.get("offset"));
      if (offsets.length === 1) {
        t.equal(headers.authorization, "Token sk_1");
        socket.send(JSON.stringify({ offset: 100 }));
        socket.send(Buffer.from("hello "), () => socket.terminate());
      } else {
        socket.send(JSON.stringify({ offset: 106 }));
        socket.send(Buffer.from("again"));
        socket.on("message", (data: Buffer) => typed.push(data.toString()));
      }
    });
    const notices: RetryNotice[] = [];
    const console = cloud.instances.console(web.id, { onReconnect: (notice) => notices.push(notice) });
    t.equal(console.write("too early"), false, "there is no connection yet");
    let heard = "";
    for await (const chunk of console) {
      heard += text(chunk);
      if (heard !== "hello again") continue;
      t.equal(console.write("ls\n"), true);
      while (typed.length === 0) await new Promise((resolve) => setImmediate(resolve));
      console.close();
    }
    t.equal(heard, "hello again");
    t.same(offsets, [null, "106"]);
    t.equal(console.offset, 111);
    t.same(typed, ["ls\n"]);
    t.equal(notices.length, 1);
  },
);

await t.test("a refused console says why: a fault at once, patience with what may pass", async (t) => {
  const { server, cloud } = await world(t);
  server.on(`UPGRADE ${path}/console`, problem(404, "notFound", "NOT_FOUND", "no such machine"));
  const next = cloud.instances.console(web.id)[Symbol.asyncIterator]().next();
  await t.rejects(next, { code: "notFound", message: "no such machine" });
  server.on(
    `UPGRADE ${path}/console`,
    problem(409, "conflict", "NOT_PLACED", "no host yet", { retryable: true }),
  );
  server.onConsole((socket) => socket.send(Buffer.from("booted")));
  for await (const chunk of cloud.instances.console(web.id)) {
    t.equal(text(chunk), "booted");
    break;
  }
  const leaving = new AbortController();
  const console = cloud.instances.console(web.id, { signal: leaving.signal });
  const iterator = console[Symbol.asyncIterator]();
  await iterator.next();
  const waiting = iterator.next();
  leaving.abort();
  t.match(await reasonOf(waiting), /^CANCELLED$/);
});
