/** `npm start` from its launcher on: one terminal's worth of cloud, started, refused, stopped, killed, started again. */
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import t, { type Test } from "tap";
import { Child, type Environment } from "#cp/local/child.ts";
import { nodeProgram, root } from "#cp/local/programs.ts";
import { pickPort } from "#test/support/ports.ts";
import { findProcessesOf, killProcessesOf } from "#test/support/processes.ts";
import { until } from "#test/support/until.ts";

const startLimitMs = 180_000;
const home = await mkdtemp(path.join(tmpdir(), "skl-"));
const topology = path.join(home, "topology.yaml");
await writeFile(topology, "hosts: [{name: cellar, provider: home, region: cellar, driver: fake}]\n");
const env: Environment = {
  ...Object.fromEntries(
    Object.entries(process.env as Environment).filter(([name]) => !/^(SKERRY_|DATABASE_URL$)/.test(name)),
  ),
  SKERRY_HOME: home,
  SKERRY_TOPOLOGY: topology,
  SKERRY_MICRO_DIR:
    process.env["SKERRY_MICRO_DIR"] ?? path.join(root, "node_modules", ".cache", "skerry", "micro"),
  PORT: String(await pickPort()),
  SKERRY_GATEWAY_PORT: String(await pickPort()),
};

t.teardown(async () => {
  await killProcessesOf(home);
  await rm(home, { recursive: true, force: true });
});

interface Launched {
  readonly child: Child;
  readonly screen: readonly string[];
}

async function launch(changes: Environment = {}): Promise<Launched> {
  const screen: string[] = [];
  const child = await Child.spawn({
    name: "the launcher",
    argv: nodeProgram("control-plane/local/main"),
    env: { ...env, ...changes },
    directory: root,
    logFile: path.join(home, "launcher.log"),
    dieWith: "SIGKILL",
    onLine: (line) => void screen.push(line),
  });
  return { child, screen };
}

async function launchUntilReady(): Promise<Launched> {
  const launched = await launch();
  const says = (text: string) => launched.screen.some((line) => line.includes(text));
  await until(() => says("Ctrl-C stops everything") || launched.child.exit !== undefined, startLimitMs);
  if (launched.child.exit) throw new Error(`it did not start:\n${launched.screen.join("\n")}`);
  return launched;
}

interface Credentials {
  readonly url: string;
  readonly username: string;
  readonly password: string;
  readonly api_key: string;
}

async function readCredentials(): Promise<Credentials> {
  return JSON.parse(await readFile(path.join(home, "credentials.json"), "utf8")) as Credentials;
}

async function call(method: string, pathname: string, body?: unknown): Promise<unknown> {
  const { url, api_key } = await readCredentials();
  const response = await fetch(new URL(pathname, url), {
    method,
    headers: { authorization: `Token ${api_key}`, "content-type": "application/json" },
    signal: AbortSignal.timeout(60_000),
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return response.json();
}

async function isRunning(): Promise<boolean> {
  const { items } = (await call("GET", "/skerry/v1/instances")) as {
    items: { phase: string; status: object }[];
  };
  return items.length === 1 && items[0]?.phase === "running";
}

/** Uses secrets, also wrongly, and looks for them where others could read them. */
async function noSecretsOutside(t: Test, { url, username, password, api_key }: Credentials): Promise<void> {
  const told: string[] = [];
  const ask = async (method: string, pathname: string, authorization: string, body?: unknown) => {
    const response = await fetch(url + pathname, {
      method,
      headers: { authorization, "content-type": "application/json" },
      signal: AbortSignal.timeout(60_000),
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    if (!response.ok) told.push(text);
    return text === "" ? {} : (JSON.parse(text) as Record<string, string>);
  };
  const chosen = "a password that somebody chose";
  const login = await ask("POST", "/v1/auth/login", "", { username, password });
  const bearer = `Bearer ${login["access_token"] ?? ""}`;
  const made = await ask("POST", "/skerry/v1/api-keys", bearer, { name: "ci" });
  await ask("POST", "/skerry/v1/users", bearer, { name: "ann", password: chosen });
  await ask("POST", "/skerry/v1/users", bearer, { name: "ann", password: chosen });
  await ask("POST", "/skerry/v1/users", bearer, { name: 1, password: { chosen } });
  await ask("PUT", "/skerry/v1/password", bearer, { current: chosen, password });
  await ask("POST", "/v1/auth/login", "", { username, password: `${password}.` });
  await ask("GET", "/v1/vms", `Bearer ${login["access_token"] ?? ""}AAAA`);
  await ask("GET", "/v1/vms", `Token ${made["api_key"] ?? ""}AAAA`);
  await ask("GET", `/api/auth/token/?username=${username}&password=${encodeURIComponent(password)}`, "");
  const secrets: Record<string, string> = {
    "the first password": password,
    "the first key": api_key,
    "a key": made["api_key"] ?? "",
    "an access token": login["access_token"] ?? "",
    "a refresh token": login["refresh_token"] ?? "",
    "the key of the database's secrets": (await readFile(path.join(home, "secret.key"), "utf8")).trim(),
    "a token to join with": await readFile(path.join(home, "agents", "cellar.token"), "utf8"),
  };
  const processes = await findProcessesOf(home);
  t.ok(processes.length >= 4, "PostgreSQL, control plane and agent are looked at");
  const logs = (await readdir(path.join(home, "log"))).map((name) =>
    readFile(path.join(home, "log", name), "utf8"),
  );
  const places = {
    "a command line": processes.map(({ commandLine }) => commandLine).join("\n"),
    "an environment": processes.map(({ environment }) => environment).join("\n"),
    "a log": (await Promise.all(logs)).join("\n"),
    "an error": told.join("\n"),
    "the audit log": JSON.stringify(await ask("GET", "/v1/audit/logs?limit=1000", bearer)),
  };
  for (const [place, text] of Object.entries(places)) {
    t.ok(text.length > 100, `there is ${place}`);
    for (const [name, secret] of Object.entries(secrets)) {
      t.ok(secret.length >= 20 && !text.includes(secret), `${name} is not in ${place}`);
    }
  }
  for (const place of ["a log", "the audit log"] as const) t.notOk(places[place].includes(chosen), place);
}

let credentials: Credentials | undefined;

await t.test("starts, refuses a second one, and stops without a trace", async (t) => {
  const { child, screen } = await launchUntilReady();
  credentials = await readCredentials();
  t.match(credentials, { url: `http://127.0.0.1:${env["PORT"] ?? ""}`, username: "admin", api_key: /^\w+/ });
  t.equal((await stat(path.join(home, "credentials.json"))).mode & 0o777, 0o600);
  t.ok(
    screen.some((line) => line.includes(credentials?.api_key ?? "?")),
    "the key is on the screen",
  );
  t.ok(
    screen.some((line) => line.includes("npx skerry vm create web")),
    "so is what to try",
  );
  t.match(await call("GET", "/readyz"), { status: "ready" });
  t.match(await call("GET", "/skerry/v1/hosts"), { items: [{ name: "cellar", phase: "online" }] });

  const second = await launch();
  t.match(await second.child.exited, { code: 1 });
  t.match(second.screen.join("\n"), /already runs in .*SKERRY_HOME/);
  const other = await launch({ SKERRY_HOME: path.join(home, "other") });
  t.match(await other.child.exited, { code: 1 });
  t.match(other.screen.join("\n"), new RegExp(`port ${env["PORT"] ?? ""} is in use.*PORT`));

  const spec = { image: "micro", cpus: 1, memory_bytes: 2 ** 27, disk_bytes: 2 ** 30 };
  await call("POST", "/skerry/v1/instances?wait=30", { name: "web", spec });
  await until(isRunning);
  await noSecretsOutside(t, credentials);

  child.kill("SIGINT");
  child.kill("SIGINT"); // npm passes on what the terminal has sent already
  t.strictSame(await child.exited, { code: 0, signal: null });
  t.strictSame(await findProcessesOf(home), [], "nothing runs any more");
});

await t.test("a later start brings back what was there, with the same key", async (t) => {
  const { child } = await launchUntilReady();
  t.strictSame(await readCredentials(), credentials);
  await until(isRunning);
  t.pass("the machine runs again");

  child.kill("SIGKILL");
  await child.exited;
  await until(async () => (await findProcessesOf(home)).length === 0);
  t.pass("kill -9 of the launcher leaves no process");
});

await t.test("a start after kill -9 finds everything in order", async (t) => {
  const { child } = await launchUntilReady();
  await until(isRunning);
  child.kill("SIGTERM");
  t.strictSame(await child.exited, { code: 0, signal: null });
});

await t.test("a part that cannot start is named, with its last words", async (t) => {
  const { child, screen } = await launch({ SKERRY_LOG_LEVEL: "loud" });
  t.match(await child.exited, { code: 1 });
  t.match(screen.join("\n"), /the control plane ended with exit code 1 before it was ready/);
  t.match(screen.join("\n"), /SKERRY_LOG_LEVEL="loud" must be one of/);
  t.strictSame(await findProcessesOf(home), [], "and what had started before is stopped");
});
