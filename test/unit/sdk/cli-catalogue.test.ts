/** The commands about flavors, key pairs and profiles. */
import { readFile, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import t, { type Test } from "tap";
import { makeCliWorld } from "#test/support/cli-world.ts";
import { runInProcess } from "#test/support/command-line.ts";
import { anInstance, page } from "#test/support/scripted-cloud.ts";

async function world(t: Test) {
  const { server, home, env } = await makeCliWorld(t);
  const run = (args: readonly string[], given: { env?: NodeJS.ProcessEnv; input?: string } = {}) =>
    runInProcess(args, given.env ?? env, given);
  return { server, home, run };
}

const flavor = (name: string, vcpus: number) => ({
  id: `flv-${name}`,
  kind: "flavor",
  name,
  project: "root",
  phase: "available",
  spec: {
    vcpus,
    memory_bytes: vcpus * 2 ** 30,
    disk_bytes: 20 * 2 ** 30,
    gpu_count: 0,
    hourly_cost_usd: "0.5",
    aliases: [],
  },
});

await t.test("flavors", async (t) => {
  const { server, run } = await world(t);
  server.on("GET /skerry/v1/flavors", page([flavor("large", 4), flavor("small", 1)]));
  const listed = await run(["flavor", "ls"]);
  t.match(
    listed.out,
    /^NAME +ID +PHASE +CPUS +MEMORY +DISK +GPUS +USD\/H\nsmall .* 1 GiB .*\nlarge .* 4 GiB/,
  );
  server.on("POST /skerry/v1/flavors", { status: 201, body: flavor("tiny", 1) });
  const size = ["--cpus", "1", "--memory", "512m", "--disk", "4g", "--price", "0.01"];
  t.equal((await run(["flavor", "create", "tiny", ...size])).out, "Made flavor tiny (flv-tiny).\n");
  t.same(server.askedOf("POST /skerry/v1/flavors")[0]?.body, {
    name: "tiny",
    spec: { vcpus: 1, memory_bytes: 2 ** 29, disk_bytes: 2 ** 32, hourly_cost_usd: "0.01" },
  });
  server.on("GET /skerry/v1/flavors", page([flavor("small", 1)]));
  t.match((await run(["flavor", "show", "small"])).out, /price: +0.5 USD per hour/);
  server.on("DELETE /skerry/v1/flavors/flv-small", { status: 204 });
  t.equal((await run(["flavor", "rm", "small"])).out, "Deleted flavor small.\n");

  server.on("POST /skerry/v1/instances", { status: 201, body: anInstance() });
  await run(["vm", "create", "web", "--image", "micro", "--flavor", "small", "--key-pair", "mine"]);
  t.match(server.askedOf("POST /skerry/v1/instances")[0]?.body, {
    spec: { image: "micro", flavor: "small", key_pair: "mine" },
  });
});

await t.test("key pairs: the private half is written where it belongs, and over nothing", async (t) => {
  const { server, home, run } = await world(t);
  const pair = { id: "key-1", name: "mine", spec: { public_key: "ssh-ed25519 AAAA" }, status: null };
  server.on("POST /skerry/v1/key-pairs", {
    status: 201,
    body: { ...pair, private_key: "-----SECRET-----\n" },
  });
  const out = path.join(home, "mine.key");
  const made = await run(["keypair", "create", "mine", "--out", out]);
  t.match(made, { code: 0, out: `Made mine; its private half is in ${out}.\n` });
  t.equal(await readFile(out, "utf8"), "-----SECRET-----\n");
  t.equal((await stat(out)).mode & 0o777, 0o600);
  t.match(await run(["keypair", "create", "mine", "--out", out]), { code: 1, err: /cannot write .*EEXIST/ });
  t.equal(server.askedOf("POST /skerry/v1/key-pairs").length, 1, "nothing was made that could not be kept");
  t.match((await run(["keypair", "create", "mine", "-o", "json"])).out, /"private_key": "-----SECRET/);

  const file = path.join(home, "id.pub");
  await writeFile(file, "ssh-ed25519 AAAA me\n");
  t.match(await run(["keypair", "create", "mine", "--public-key", file]), { code: 0, out: /^Keeps mine/ });
  t.same(server.askedOf("POST /skerry/v1/key-pairs").at(-1)?.body, {
    name: "mine",
    spec: { public_key: "ssh-ed25519 AAAA me" },
  });
});

await t.test("quotas are told and set as people say them", async (t) => {
  const { server, run } = await world(t);
  const lines = [
    { name: "cpus", used: 3, limit: 8 },
    { name: "memory_bytes", used: 1.5 * 1024 ** 3, limit: null },
  ];
  server.on("GET /skerry/v1/projects/root/quota", { body: { items: lines } });
  const listed = (await run(["quota", "ls", "root"])).out;
  t.match(listed, /^cpus +3 +8$/m);
  t.match(listed, /^memory_bytes +1\.5 GiB +-$/m);
  const project = { id: "root", kind: "project", name: "root", spec: { quota: { cpus: 8 } } };
  server.on("GET /skerry/v1/projects/root", ...Array.from({ length: 3 }, () => ({ body: project })));
  server.on("PATCH /skerry/v1/projects/root", ...Array.from({ length: 3 }, () => ({ body: project })));
  t.equal((await run(["quota", "set", "root", "memory_bytes", "64g"])).out, "root: memory_bytes 64 GiB.\n");
  t.equal((await run(["quota", "set", "root", "cpus", "none"])).out, "root: cpus none.\n");
  t.match(await run(["quota", "set", "root", "cpus", "lots"]), { code: 2, err: /whole number/ });
  t.same(
    server.askedOf("PATCH /skerry/v1/projects/root").map(({ body }) => body),
    [{ spec: { quota: { cpus: 8, memory_bytes: 64 * 1024 ** 3 } } }, { spec: { quota: { cpus: null } } }],
  );
});

await t.test("profiles: one for each project, chosen by name", async (t) => {
  const { server, home, run } = await world(t);
  const env = { XDG_CONFIG_HOME: home, SKERRY_HOME: path.join(home, "none") };
  const tokens = (access: string) => ({
    body: { access_token: access, refresh_token: "ref", expires_in: 3600, token_type: "Bearer" },
  });
  server.on("POST /v1/auth/login", tokens("of-home"), tokens("of-shop"));
  server.on("GET /skerry/v1/whoami", {
    body: { id: "user-1", username: "ann", project: "prj-1", role: "viewer" },
  });
  const login = ["login", "--url", server.url, "-u", "ann", "--password-stdin"];
  await run([...login, "--profile", "home"], { env, input: "secret\n" });
  await run([...login, "--profile", "shop", "--project", "shop"], { env, input: "secret\n" });
  t.match(server.askedOf("POST /v1/auth/login")[1]?.body, { username: "ann", project: "shop" });

  const asked = async (args: readonly string[], more = {}) => {
    await run(["whoami", ...args], { env: { ...env, ...more } });
    return server.askedOf("GET /skerry/v1/whoami").at(-1)?.headers.authorization;
  };
  t.equal(await asked([]), "Bearer of-shop", "the last login is in use");
  t.equal((await run(["profile", "use", "home"], { env })).out, "Uses profile home.\n");
  t.equal(await asked([]), "Bearer of-home");
  t.equal(await asked(["--profile", "shop"]), "Bearer of-shop");
  const listed = await run(["profile", "ls", "-o", "json"], { env });
  t.same(JSON.parse(listed.out), [
    { name: "home", url: server.url, username: "ann", project: "", current: true },
    { name: "shop", url: server.url, username: "ann", project: "shop", current: false },
  ]);
  t.notMatch(listed.out, /of-home|of-shop|"ref"/, "no secret is shown");
  t.match(await run(["profile", "use", "nope"], { env }), {
    code: 1,
    err: /no profile nope; known: home, shop/,
  });
});
