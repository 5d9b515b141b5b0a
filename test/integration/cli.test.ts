import { spawn } from "node:child_process";
import { chmod, mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import t, { type Test } from "tap";
import { parse } from "yaml";
import { nodeProgram, root } from "#cp/local/programs.ts";
import { createAgentClients } from "#sdk/agent.ts";
import type { Host } from "#sdk/index.ts";
import { runCommand } from "#sdk/cli/run.ts";
import type { Terminal } from "#sdk/cli/session.ts";
import { startCloud } from "#test/support/cloud.ts";
import { runInProcess, type Ran } from "#test/support/command-line.ts";
import { until } from "#test/support/until.ts";
import { anInstance, events, page, problem, ScriptedCloud } from "#test/unit/sdk/scripted-cloud.ts";

const instances = "/skerry/v1/instances";
const web = anInstance();
const host = {
  id: "host-0123456789abcdefghjk",
  kind: "host",
  name: "site-a",
  phase: "online",
  problem: null,
  spec: { provider: "aws", region: "us-east-1", zone: "", location: null, prices: null, cordoned: false },
  status: null,
  created_at: "2026-01-01T00:00:00.000Z",
};

async function folder(t: Test): Promise<string> {
  const made = await mkdtemp(join(tmpdir(), "skerry-cli-"));
  t.teardown(() => rm(made, { recursive: true, force: true }));
  return made;
}

/** A cloud, and the command in this process, pointed at it. */
async function world(t: Test, extra: NodeJS.ProcessEnv = {}) {
  const server = await ScriptedCloud.start();
  t.teardown(() => server[Symbol.asyncDispose]());
  const home = await folder(t);
  const env = {
    XDG_CONFIG_HOME: home,
    SKERRY_HOME: home,
    SKERRY_URL: server.url,
    SKERRY_TOKEN: "sk_1",
    ...extra,
  };
  server.on("GET /skerry/v1/hosts", page([host]));
  return { server, home, env, skerry: (...args: string[]) => runInProcess(args, env) };
}

/** Runs the program. */
function start(t: Test, args: readonly string[], env: NodeJS.ProcessEnv) {
  const [node, ...program] = nodeProgram("sdk/cli/main");
  const path = { PATH: process.env["PATH"] };
  const child = spawn(node, [...program, ...args], { env: { ...path, ...env }, cwd: root });
  t.teardown(() => child.kill("SIGKILL"));
  const ran = { code: -1, out: "", err: "" };
  child.stdout.on("data", (bytes: Buffer) => (ran.out += bytes.toString()));
  child.stderr.on("data", (bytes: Buffer) => (ran.err += bytes.toString()));
  const ended = new Promise<Ran>((resolve) =>
    child.once("close", (code) => resolve({ ...ran, code: code ?? -1 })),
  );
  return { child, ran, ended };
}

await t.test("lists as a table, as JSON and as YAML", async (t) => {
  const { server, skerry } = await world(t);
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
  const { server, skerry } = await world(t);
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
  const { server, home, skerry } = await world(t);
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
  const { server, home, env, skerry } = await world(t);
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
  const { server, home, env } = await world(t);
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
  const { server, skerry } = await world(t);
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
  const { server, home, skerry } = await world(t);
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
  const { server, home, skerry } = await world(t);
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

await t.test("the doctor finds what is wrong and how to mend it", async (t) => {
  const [healthy, sick] = [await world(t), await world(t)];
  for (const { server } of [healthy, sick]) {
    server.on("GET /skerry/v1/whoami", { body: { username: "admin", role: "admin" } });
  }
  const checks = (ready: boolean) => [{ name: "database", ready }];
  healthy.server.on("GET /readyz", { body: { status: "ready", checks: checks(true) } });
  const details = { checks: checks(false) };
  sick.server.on("GET /readyz", problem(503, "unavailable", "NOT_READY", "not ready: database", { details }));
  const well = await healthy.skerry("doctor", "--json");
  const { PATH } = process.env;
  process.env["PATH"] = sick.home;
  t.teardown(() => (process.env["PATH"] = PATH));
  const ill = await sick.skerry("doctor");

  const findings = JSON.parse(well.out) as { name: string; status: string }[];
  const states = new Map(findings.map(({ name, status }) => [name, status]));
  for (const name of ["node", "api", "database", "clock", "login", "hosts"])
    t.equal(states.get(name), "ok", name);
  for (const name of ["qemu", "tools", "disk"]) t.ok(states.has(name), name);

  t.equal(ill.code, 1);
  t.match(ill.out, /^database +fail /m);
  t.match(ill.out, /^database: is PostgreSQL running/m);
  t.match(ill.out, /^qemu: apt-get install qemu-system-/m, "no program is found either");
  t.match(ill.err, /^error: \d of \d+ checks failed \(CHECKS_FAILED\)/);
});

await t.test("completion knows the tree, and bash takes it", async (t) => {
  const { home, skerry } = await world(t);
  for (const shell of ["zsh", "fish"]) t.match((await skerry("completion", shell)).out, "vm create", shell);
  t.equal((await skerry("completion", "tcsh")).code, 2);
  const script = join(home, "completion.bash");
  await writeFile(script, (await skerry("completion", "bash")).out);
  const complete = (line: string) =>
    new Promise<string>((resolve) => {
      const words = line.split(" ");
      const set = `COMP_WORDS=(${words.map((word) => `'${word}'`).join(" ")}); COMP_CWORD=${words.length - 1}`;
      const bash = spawn("bash", [
        "--norc",
        "-c",
        `source ${script}; ${set}; _skerry; echo "\${COMPREPLY[@]}"`,
      ]);
      let out = "";
      bash.stdout.on("data", (bytes: Buffer) => (out += bytes.toString()));
      bash.once("close", () => resolve(out.trim()));
    });
  t.equal(await complete("skerry vm cr"), "create");
  t.equal(await complete("skerry vm create --ima"), "--image");
  t.equal(await complete("skerry --output "), "table json yaml");
  t.equal(await complete("skerry vm ls -o y"), "yaml");
  const offered = (await complete("skerry ")).split(/\s+/);
  for (const word of ["login", "vm", "migration", "host", "doctor", "--output"])
    t.ok(offered.includes(word), `offers ${word}`);
});

await t.test("as a process: output, exit code, Ctrl-C while waiting, a reader that goes away", async (t) => {
  const { server, env } = await world(t);
  server.on(`GET ${instances}`, page([web]));
  const listed = await start(t, ["vm", "ls", "-o", "json"], env).ended;
  t.equal(listed.code, 0, listed.err);
  t.same(JSON.parse(listed.out), [web]);
  const usage = await start(t, ["vm", "ls", "--bogus"], env).ended;
  t.match(usage, { code: 2, out: "", err: /^error: unknown option '--bogus'/ });

  server.on(`POST ${instances}/${web.id}/stop`, { body: anInstance({ phase: "stopping" }) });
  server.on(
    `GET ${instances}/${web.id}`,
    events([
      ["present", anInstance({ phase: "stopping" })],
      ["synced", {}],
    ]),
  );
  const waiting = start(t, ["vm", "stop", "web", "--wait"], env);
  await until(() => waiting.ran.err.includes("web: stopping"));
  waiting.child.kill("SIGINT");
  const stopped = await waiting.ended;
  t.equal(stopped.code, 130);
  t.match(stopped.err, /error: interrupted \(INTERRUPTED\)/);

  server.onConsole((socket) => {
    const talk = setInterval(() => socket.send(Buffer.from("more\n")), 5);
    socket.once("close", () => clearInterval(talk));
  });
  const gone = start(t, ["vm", "console", "web"], env);
  gone.child.stdout.once("data", () => gone.child.stdout.destroy());
  const closed = await new Promise<number | null>((resolve) => gone.child.once("exit", resolve));
  t.equal(closed, 0);
});

await t.test("the console types what stdin has and shows what comes", async (t) => {
  const { server, env } = await world(t);
  server.on(`GET ${instances}`, page([web]));
  server.onConsole((socket) => {
    socket.send(Buffer.from("login: "));
    socket.on("message", (data: Buffer) => socket.send(Buffer.from(`got ${data.toString()}`)));
  });
  const joined = start(t, ["vm", "console", "web", "--log"], env);
  await until(() => joined.ran.out.includes("login: "));
  joined.child.stdin.write("root\n");
  await until(() => joined.ran.out.includes("got root\n"));
  joined.child.kill("SIGINT");
  t.equal((await joined.ended).code, 130);
  t.equal(server.asked.find(({ path }) => path.endsWith("/console"))?.query.get("offset"), "0");
});

await t.test("on a terminal the console is raw, and Ctrl-] leaves it", async (t) => {
  const { server, env } = await world(t);
  server.on(`GET ${instances}`, page([web]));
  const typed: string[] = [];
  server.onConsole((socket) => {
    socket.on("message", (data: Buffer) => typed.push(data.toString()));
    socket.send(Buffer.from("# "));
  });
  const modes: boolean[] = [];
  const keyboard = Object.assign(new PassThrough(), {
    isTTY: true,
    setRawMode: (raw: boolean) => modes.push(raw),
  });
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const stdin = keyboard as unknown as Terminal["stdin"];
  const { signal } = new AbortController();
  const leaving = runCommand(["vm", "console", "web"], { stdin, stdout, stderr, env, signal });
  await until(() => stdout.readableLength > 0);
  keyboard.write("\u0003top\r");
  await until(() => typed.length > 0);
  keyboard.write("q\u001dnever sent");
  t.equal(await leaving, 0);
  t.equal(typed[0], "\u0003top\r", "Ctrl-C belongs to the guest");
  t.notMatch(typed.join(""), "never");
  t.same(modes, [true, false], "the terminal is given back as it was");
  t.match(String(stderr.read()), /Joining web; Ctrl-\] leaves\.\n\nLeft web\./);
});

await t.test("with a real cloud: create, show, resize, stop, start, remove", async (t) => {
  let gateway = 0;
  const gatewayPort = (port: number) => Promise.resolve((gateway = port));
  const cloud = await startCloud(t, { gatewayPort });
  const home = await folder(t);
  const env = { XDG_CONFIG_HOME: home, SKERRY_HOME: home, SKERRY_URL: cloud.url, SKERRY_TOKEN: cloud.apiKey };
  const skerry = async (...args: string[]) => {
    const ran = await runInProcess(args, env);
    t.equal(ran.code, 0, `${args.join(" ")}\n${ran.err}`);
    return ran.out;
  };
  for (const name of ["site-1", "site-2"])
    t.match(await skerry("host", "ls"), new RegExp(`^${name} .* online `, "m"));
  t.match(await skerry("image", "ls"), /^micro /m);
  t.match(
    await skerry("vm", "create", "web", "--image", "micro", "--wait"),
    /^web \(vm-\w+\) is running\.\n$/,
  );
  const shown = JSON.parse(await skerry("vm", "show", "web", "-o", "json")) as { phase: string; id: string };
  t.equal(shown.phase, "running");
  t.match(await skerry("vm", "placement", shown.id), /^What would change the answer:/m);
  t.match(await skerry("vm", "console", "web", "--log", "--for", "0.5s"), /\S/);
  t.match(await skerry("vm", "log", "web"), /\S/);
  await skerry("vm", "metrics", "web", "--since", "10m");
  await skerry("host", "cert", "--out", join(home, "op"));
  const [certificate, key, authorities] = await Promise.all(
    ["certificate", "key", "authorities"].map((name) => readFile(join(home, "op", `${name}.pem`), "utf8")),
  );
  const { id: hostId, status } = JSON.parse(await skerry("host", "show", "site-1", "-o", "json")) as Host;
  const address = status?.listen_address ?? "";
  const agent = createAgentClients({
    address,
    hostId,
    certificate: certificate ?? "",
    key: key ?? "",
    authorities: authorities ?? "",
  });
  t.equal((await agent.host.getHost({})).name, "site-1", "an operator reaches an agent without the cloud");
  const { provider, region } = (shown as unknown as { placement: Record<string, string> }).placement;
  const [elsewhere] = (JSON.parse(await skerry("host", "ls", "-o", "json")) as Host[]).filter(
    ({ spec }) => spec.provider !== provider,
  );
  const to = `${elsewhere?.spec.provider ?? ""}/${elsewhere?.spec.region ?? ""}`;
  t.match(await skerry("vm", "migrate", "web", "--to", to, "--dry-run"), /^possible: +yes$/m);
  const moved = await skerry("vm", "migrate", "web", "--to", to, "--max-downtime", "2s");
  t.match(moved, /^phase: +complete$/m);
  t.match(moved, new RegExp(`^to: +${to} `, "m"));
  t.match(moved, /^downtime: +[\d.]+ m?s \(source [\d.]+ m?s, target [\d.]+ m?s\)$/m);
  t.match(await skerry("vm", "show", "web"), new RegExp(`^host: +${elsewhere?.name ?? ""}$`, "m"));
  const back = `${provider ?? ""}/${region ?? ""}`;
  t.match(await skerry("vm", "migrate", "web", "--to", back, "--detach"), /is being moved by mig-\w+/);
  t.match(await skerry("migration", "show", "web", "--follow"), /^phase: +complete$/m);
  t.match(await skerry("migration", "ls", "--vm", "web"), /(^mig-\w+ +web +complete .*\n){2}/m);
  const headers = { authorization: `Token ${cloud.apiKey}` };
  const listed = await fetch(`${cloud.url}/v1/migrations?status=completed`, { headers });
  t.match(await listed.json(), {
    migrations: [
      { vm_id: shown.id, phase: "complete", source_provider: provider, downtime: /^[\d.]+m?s$/ },
      { phase: "complete", target_provider: provider, data_transferred: Number, compression_ratio: Number },
    ],
    total: 2,
  });
  t.match(await skerry("vm", "resize", "web", "--disk", "8g", "--wait"), /is running/);
  t.match(await skerry("vm", "show", "web"), /^disk: +8 GiB$/m);
  t.match(await skerry("vm", "stop", "web", "--wait"), /is stopped/);
  t.match(await skerry("vm", "start", "web", "--wait"), /is running/);
  t.match(await skerry("op", "ls"), /OPERATION/);
  t.match(await skerry("host", "cordon", "site-1"), /takes no new machines/);
  t.match(await skerry("host", "uncordon", "site-1"), /takes new machines/);
  const token = (await skerry("host", "token", "--name", "edge")).trim();
  t.match(token, /^tok-\w+\.[\w-]+\.[\w-]{43}$/);
  const data = join(home, "agent");
  const place = ["--name", "edge", "--provider", "lab", "--listen", "127.0.0.1:0", "--driver", "fake"];
  const at = `127.0.0.1:${String(gateway)}`;
  const joined = await skerry("agent", "join", "--gateway", at, "--token", token, "--data", data, ...place);
  t.match(joined, /^This machine is host-\w+\./);
  t.match(await skerry("host", "show", "edge"), /^place: +lab \/ local$/m);
  t.match(await skerry("agent", "status", "--data", data), /^process: +not running$/m);
  const again = ["agent", "join", "--gateway", at, "--token", token, "--data", data];
  t.match(await runInProcess(again, env), { code: 1, err: /ALREADY_JOINED/ });
  t.equal(await skerry("vm", "rm", "web", "--wait"), "web is gone.\n");
  t.equal((await skerry("vm", "ls")).split("\n").length, 2, "only the heading is left");
});
