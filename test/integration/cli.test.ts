/** The command against a cloud that says what a test tells it to say: what it prints, asks for and keeps. */
import { chmod, mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { parse } from "yaml";
import { instances, makeCliWorld, web } from "#test/support/cli-world.ts";
import { runInProcess } from "#test/support/command-line.ts";
import { anInstance, events, page, problem, ScriptedCloud } from "#test/support/scripted-cloud.ts";

await t.test("lists as a table, as JSON and as YAML", async (t) => {
  const { server, skerry } = await makeCliWorld(t);
  const created = new Date(Date.now() - 3 * 3600_000).toISOString();
  const db = anInstance({
    id: "vm-zzzzzzzzzzzzzzzzzzzz",
    name: "database",
    phase: "failed",
    placement: null,
    created_at: created,
  });
  server.on(`GET ${instances}`, page([anInstance({ created_at: created }), db]));
  const table = await skerry("vm", "ls", "--phase", "running,failed", "--label", "tier=front");
  t.equal(
    table.out,
    [
      "NAME      ID                       PHASE    CPUS   MEMORY   DISK  HOST    ADDRESS  AGE",
      "web       vm-0123456789abcdefghjk  running     2  512 MiB  4 GiB  site-a  -         3h",
      "database  vm-zzzzzzzzzzzzzzzzzzzz  failed      2  512 MiB  4 GiB  -       -         3h",
      "",
    ].join("\n"),
  );
  t.equal(table.code, 0);
  t.equal(server.askedOf(`GET ${instances}`)[0]?.query.get("phase"), "running,failed");
  t.equal(server.askedOf(`GET ${instances}`)[0]?.query.get("label.tier"), "front");
  const json = await skerry("-o", "json", "vm", "ls");
  t.same(JSON.parse(json.out), [anInstance({ created_at: created }), db]);
  const yaml = await skerry("vm", "ls", "--output=yaml");
  t.same(parse(yaml.out), [anInstance({ created_at: created }), db]);
});

await t.test("shows one thing, line by line, leaving out what is empty", async (t) => {
  const { server, skerry } = await makeCliWorld(t);
  const status = {
    cpus: 1,
    memory_bytes: 0,
    disk_bytes: web.spec.disk_bytes,
    pending_restart: ["cpus"],
    forwards: [{ protocol: "tcp", guest_port: 80, host_port: 8080, host_address: "" }],
  };
  const stuck = {
    reason: "NO_CAPACITY",
    message: "all hosts are full",
    stuck: true,
    generation: 1,
    since: "",
  };
  server.on(`GET ${instances}`, page([anInstance({ status, problem: stuck })]));
  t.equal(
    (await skerry("vm", "show", "web")).out,
    [
      "name:                web",
      "id:                  vm-0123456789abcdefghjk",
      "phase:               running",
      "problem:             all hosts are full (NO_CAPACITY); nothing more is tried",
      "image:               micro",
      "cpus:                2 (now 1)",
      "memory:              512 MiB",
      "disk:                4 GiB",
      "waits for a restart: cpus",
      "host:                site-a",
      "place:               aws / us-east-1 / us-east-1a",
      "forwards:            127.0.0.1:8080 -> 80/tcp",
      "restart policy:      on-failure",
      "labels:              tier=front",
      "created:             2026-01-01T00:00:00.000Z",
      "",
    ].join("\n"),
  );
});

await t.test("creates with human sizes and waits, telling every stage once", async (t) => {
  const { server, home, skerry } = await makeCliWorld(t);
  await writeFile(join(home, "key.pub"), "ssh-ed25519 AAAA me\n");
  const building = anInstance({ phase: "building", observed_generation: 0 });
  server.on(`POST ${instances}`, { status: 201, body: building });
  const loading = (done: number) => ({
    state: "preparing",
    image_bytes_done: done,
    image_bytes_total: 100,
    migration: null,
    pending_restart: [],
  });
  server.on(
    `GET ${instances}/${web.id}`,
    events([
      ["present", building],
      ["synced", {}],
      ["changed", anInstance({ phase: "building", observed_generation: 0, status: loading(10) })],
      ["changed", anInstance({ phase: "building", observed_generation: 0, status: loading(60) })],
      ["changed", web],
    ]),
  );
  const flags =
    "--cpus 2 --memory 1.5g --disk 20g --label tier=front --forward 8080:80 --forward 53/udp --wait";
  const ran = await skerry(
    "vm",
    "create",
    "web",
    "--image",
    "micro",
    ...flags.split(" "),
    "--ssh-key",
    join(home, "key.pub"),
  );
  t.equal(ran.code, 0, ran.err);
  t.equal(ran.out, "web (vm-0123456789abcdefghjk) is running.\n");
  t.equal(ran.err, "web: building\nweb: downloading the image\nweb: running\n");
  t.same(server.askedOf(`POST ${instances}`)[0]?.body, {
    name: "web",
    labels: { tier: "front" },
    spec: {
      image: "micro",
      cpus: 2,
      memory_bytes: 1.5 * 1024 ** 3,
      disk_bytes: 20 * 1024 ** 3,
      ssh_keys: ["ssh-ed25519 AAAA me"],
      forwards: [
        { protocol: "tcp", guest_port: 80, host_port: 8080 },
        { protocol: "udp", guest_port: 53, host_port: 0 },
      ],
    },
  });
});

await t.test("mistakes are one line, a hint and an exit code of their own", async (t) => {
  const { server, home, env, skerry } = await makeCliWorld(t);
  const usage = await skerry("vm", "create", "web", "--image", "micro", "--memory", "lots");
  t.equal(usage.code, 2);
  t.match(usage.err, /^error: option '--memory <size>' argument 'lots' is invalid\. A size is a number/);
  t.equal((await skerry("vm", "explode")).code, 2);
  t.equal((await skerry("vm", "--help")).code, 0);

  server.on(`GET ${instances}`, page([web, anInstance({ id: "vm-zzzzzzzzzzzzzzzzzzzz" })]));
  const twins = await skerry("vm", "stop", "web");
  t.equal(twins.code, 1);
  t.equal(
    twins.err,
    "error: 2 instances are named web: vm-0123456789abcdefghjk, vm-zzzzzzzzzzzzzzzzzzzz (AMBIGUOUS_NAME)\n" +
      "hint: use an id instead of the name\n",
  );
  t.equal(server.asked.filter(({ method }) => method === "POST").length, 0, "nothing was stopped");

  const details = { fields: [{ field: "spec.cpus", message: "at most 512\u001b[2J" }] };
  server.on(
    `POST ${instances}`,
    problem(400, "invalid", "VALIDATION_ERROR", "the body is wrong", { details }),
  );
  const invalid = await skerry("vm", "create", "web", "--image", "micro");
  t.equal(invalid.code, 1);
  t.equal(invalid.err, "error: the body is wrong (VALIDATION_ERROR)\n  spec.cpus: at most 512\\x1b[2J\n");

  server.on(`GET ${instances}`, page([web]));
  server.on(`POST ${instances}/${web.id}/stop`, { body: anInstance({ phase: "stopping" }) });
  server.on(
    `GET ${instances}/${web.id}`,
    events([
      ["present", anInstance({ phase: "stopping" })],
      ["synced", {}],
    ]),
  );
  const late = await skerry("vm", "stop", "web", "--wait", "--timeout", "0.2s");
  t.equal(late.code, 3);
  t.match(
    late.err,
    /\nerror: waiting for vm-0123456789abcdefghjk took longer than 200 ms \(TIMEOUT\)\nhint: the work goes on/,
  );

  server.on(
    "GET /skerry/v1/whoami",
    problem(401, "unauthenticated", "TOKEN_INVALID", "the token is not valid"),
  );
  t.match(await skerry("whoami"), {
    code: 4,
    err: /^error: the token is not valid \(TOKEN_INVALID\)\nhint: log in/,
  });
  const nowhere = await runInProcess(["vm", "ls"], {
    XDG_CONFIG_HOME: home,
    SKERRY_HOME: join(home, "none"),
  });
  t.match(nowhere, { code: 4, err: /^error: no cloud is known here \(NO_CLOUD\)\nhint: run `npm start`/ });
  const bad = await runInProcess(["vm", "ls"], { ...env, SKERRY_URL: "ftp://x" });
  t.match(bad, { code: 1, err: /URL_INVALID/ });
});

await t.test("logins are kept for their owner's eyes, by profile, and never sent elsewhere", async (t) => {
  const { server, home, env } = await makeCliWorld(t);
  const clean = { XDG_CONFIG_HOME: home, SKERRY_HOME: join(home, "none") };
  server.on("POST /v1/auth/login", {
    body: { access_token: "acc", refresh_token: "ref", expires_in: 3600, token_type: "Bearer" },
  });
  server.on("GET /skerry/v1/whoami", {
    body: { id: "usr-1", username: "admin", project: "root", role: "admin" },
  });
  const login = ["login", "--url", server.url, "--username", "admin", "--password-stdin", "--profile", "lab"];
  const done = await runInProcess(login, clean, { input: "secret\n" });
  t.equal(done.code, 0, done.err);
  t.same(server.askedOf("POST /v1/auth/login")[0]?.body, { username: "admin", password: "secret" });
  const file = join(home, "skerry", "config.json");
  t.equal((await stat(file)).mode & 0o777, 0o600);
  t.equal((await stat(join(home, "skerry"))).mode & 0o777, 0o700);
  t.match(JSON.parse(await readFile(file, "utf8")), {
    current: "lab",
    profiles: { lab: { url: server.url, username: "admin", tokens: { accessToken: "acc" } } },
  });
  await chmod(file, 0o644);

  const who = await runInProcess(["whoami", "-o", "json"], clean);
  t.match(JSON.parse(who.out), { username: "admin", source: "profile lab", url: server.url });
  t.equal(server.askedOf("GET /skerry/v1/whoami").at(-1)?.headers.authorization, "Bearer acc");

  const other = await ScriptedCloud.start();
  t.teardown(() => other[Symbol.asyncDispose]());
  await runInProcess(["whoami", "--url", other.url], clean);
  t.equal(other.asked[0]?.headers.authorization, undefined, "another cloud does not get this one's token");
  t.match(await runInProcess(["whoami", "--profile", "nope"], clean), {
    code: 1,
    err: /no profile nope; known: lab/,
  });

  server.on("POST /v1/auth/logout", { status: 204 });
  t.equal((await runInProcess(["logout"], clean)).code, 0);
  t.same(server.askedOf("POST /v1/auth/logout")[0]?.body, { refresh_token: "ref" });
  t.equal((await stat(file)).mode & 0o777, 0o600, "rewritten for the owner alone");
  t.equal((await runInProcess(["whoami"], clean)).code, 4);

  await mkdir(join(home, "local"));
  const credentials = { url: server.url, username: "admin", password: "x", api_key: "sk_local" };
  await writeFile(join(home, "local", "credentials.json"), JSON.stringify(credentials));
  await runInProcess(["whoami"], { XDG_CONFIG_HOME: home, SKERRY_HOME: join(home, "local") });
  t.equal(
    server.asked.at(-1)?.headers.authorization,
    "Token sk_local",
    "after npm start nobody needs to log in",
  );
  t.equal((await runInProcess(["whoami"], env)).code, 0);
  t.equal(server.asked.at(-1)?.headers.authorization, "Token sk_1", "the environment comes first");
});

await t.test("an API key is good for as long as was asked", async (t) => {
  const { server, skerry } = await makeCliWorld(t);
  server.on("POST /skerry/v1/api-keys", { status: 201, body: { id: "key-1", name: "ci", api_key: "sk_2" } });
  const made = await skerry("apikey", "create", "ci", "--read-only", "--expires", "30d");
  t.match(made, { code: 0, out: /sk_2/ });
  t.match(server.askedOf("POST /skerry/v1/api-keys")[0]?.body, {
    name: "ci",
    read_only: true,
    expires_in_seconds: 30 * 86_400,
  });
});

await t.test("images are imported from files and URLs; half an upload leaves nothing behind", async (t) => {
  const { server, home, skerry } = await makeCliWorld(t);
  const file = join(home, "tiny.qcow2");
  await writeFile(file, "QFI");
  const image = {
    id: "img-0123456789abcdefghjk",
    name: "tiny",
    phase: "pending",
    problem: null,
    spec: {
      type: "disk",
      architecture: "x86_64",
      aliases: [],
      description: "",
      command_line: "",
      source: { type: "upload" },
    },
    status: null,
    generation: 1,
    observed_generation: 1,
    created_at: "2026-01-01T00:00:00.000Z",
  };
  const content = `PUT /skerry/v1/images/${image.id}/content`;
  server.on("POST /skerry/v1/images", { status: 201, body: image });
  server.on(content, { body: { ...image, phase: "available" } });
  const sent = await skerry("image", "import", file, "--alias", "t");
  t.equal(sent.code, 0, sent.err);
  t.match(sent.out, /^name: +tiny\nid: +img-0123456789abcdefghjk\nphase: +available\n/);
  t.same(server.askedOf("POST /skerry/v1/images")[0]?.body, {
    name: "tiny",
    spec: { type: "disk", source: { type: "upload" }, aliases: ["t"] },
  });
  t.equal(server.askedOf(content)[0]?.body, "QFI");

  server.on(content, problem(400, "invalid", "IMAGE_HAS_BACKING_FILE", "it refers to another file"));
  server.on(`DELETE /skerry/v1/images/${image.id}`, { status: 202, body: image });
  t.match(await skerry("image", "import", file), { code: 1, err: /IMAGE_HAS_BACKING_FILE/ });
  t.equal(server.askedOf(`DELETE /skerry/v1/images/${image.id}`).length, 1);

  server.on(`GET /skerry/v1/images/${image.id}`, events([["present", { ...image, phase: "available" }]]));
  const fetched = await skerry(
    "image",
    "import",
    "https://images.example/noble.img",
    "--sha256",
    "a".repeat(64),
  );
  t.equal(fetched.code, 0, fetched.err);
  t.match(server.askedOf("POST /skerry/v1/images").at(-1)?.body, {
    name: "noble",
    spec: { source: { type: "url", url: "https://images.example/noble.img", sha256: "a".repeat(64) } },
  });
  t.match(await skerry("image", "import", join(home, "none.img")), { code: 1, err: /FILE_UNREADABLE/ });
});

await t.test("tokens, operators' certificates and the agent's unit", async (t) => {
  const { server, home, skerry } = await makeCliWorld(t);
  server.on("POST /skerry/v1/enrolment-tokens", {
    status: 201,
    body: { token: "tok-1.s.p", gateway: "cloud.example:8001" },
  });
  const token = await skerry("host", "token", "--name", "edge-1", "--expires", "10m");
  t.equal(token.out, "tok-1.s.p\n", "nothing else on stdout: it is made for $(...)");
  t.match(token.err, /skerry agent join --gateway cloud\.example:8001 --name edge-1 --token <token>/);
  t.same(server.askedOf("POST /skerry/v1/enrolment-tokens")[0]?.body, {
    name: "edge-1",
    spec: { host_name: "edge-1", expires_in_seconds: 600 },
  });
  server.on("POST /skerry/v1/hosts/certificate", {
    status: 201,
    body: { certificate: "CERT", authorities: "CA" },
  });
  t.equal((await skerry("host", "cert", "--out", join(home, "op"))).code, 0);
  t.match(await readFile(join(home, "op", "key.pem"), "utf8"), /BEGIN PRIVATE KEY/);
  t.equal((await stat(join(home, "op", "key.pem"))).mode & 0o777, 0o600);
  t.equal(await readFile(join(home, "op", "certificate.pem"), "utf8"), "CERT");
  const asked = server.askedOf("POST /skerry/v1/hosts/certificate")[0]?.body;
  t.match((asked as { certificate_request: string }).certificate_request, /BEGIN CERTIFICATE REQUEST/);

  const unit = await skerry("agent", "install", "--dry-run", "--data", join(home, "agent"));
  t.match(unit.out, `EnvironmentFile=${join(home, "agent", "agent.env")}`);
  t.match(unit.out, "KillMode=process");
  t.match(await skerry("agent", "status", "--data", home), { code: 0, out: /has not joined a cloud/ });
  const wrong = await skerry("agent", "join", "--gateway", "127.0.0.1:1", "--token", "half", "--data", home);
  t.match(wrong, { code: 1, err: /TOKEN_MALFORMED/ });
  const fakeToken = `tok-1.${"s".repeat(20)}.${"p".repeat(43)}`;
  const away = ["--gateway", "127.0.0.1:1", "--token", fakeToken, "--driver", "fake", "--timeout", "3s"];
  const refused = await skerry("agent", "join", "--data", join(home, "new"), ...away);
  t.match(refused, { code: /[13]/, err: /AGENT_ENDED|TIMEOUT/ });
  t.notMatch(await readFile(join(home, "new", "agent.env"), "utf8"), fakeToken);
});
