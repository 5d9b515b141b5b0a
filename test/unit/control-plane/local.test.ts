import { readFile, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { once } from "node:events";
import path from "node:path";
import { pathToFileURL } from "node:url";
import t from "tap";
import { Child } from "#cp/local/child.ts";
import { loadCredentials, saveCredentials } from "#cp/local/credentials.ts";
import { lockHome } from "#cp/local/home-lock.ts";
import { requireFreePort } from "#cp/local/ports.ts";
import { agentEnvironment, controlPlaneEnvironment, root } from "#cp/local/programs.ts";
import { watchLines } from "#cp/local/screen.ts";
import { readLocalSettings } from "#cp/local/settings.ts";
import { Supervisor } from "#cp/local/supervisor.ts";
import {
  builtInTopology,
  developmentTopology,
  loadTopology,
  parseTopology,
  toHostLabels,
} from "#cp/local/topology.ts";
import { isFault, type Fault } from "#kernel/fault.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { TapReport } from "#test/support/tap-report.ts";
import { until } from "#test/support/until.ts";

const host = { name: "a", provider: "home", region: "cellar" };

await t.test("topology", async (t) => {
  t.strictSame(
    builtInTopology.hosts.map(({ name, provider, region, driver }) => [name, provider, region, driver]),
    [
      ["site-a", "aws", "us-east-1", "qemu"],
      ["site-b", "azure", "eastus", "qemu"],
    ],
    "the built-in sites are those of the API references",
  );
  const regions = new Set(developmentTopology.hosts.map((one) => one.region));
  t.equal(regions.size, 3, "development has three regions");
  t.ok(developmentTopology.hosts.every((one) => one.driver === "fake"));

  const parsed = parseTopology(
    "hosts: [{name: a, provider: home, region: cellar}]\nimages: {ubuntu-22.04: micro}",
  );
  t.match(parsed.hosts, [{ ...host, zone: "", driver: "qemu", share: 0.5 }]);
  t.strictSame(parsed.images, { "ubuntu-22.04": "micro" });
  t.equal(await loadTopology(undefined, builtInTopology), builtInTopology);
  t.equal(await reasonOf(loadTopology("/nowhere/topology.yaml", builtInTopology)), "TOPOLOGY_UNREADABLE");

  const wrong: readonly [yaml: string, mistake: RegExp][] = [
    ["hosts: [", /./],
    ["", /the file: /],
    ["hosts: []", /hosts: /],
    ["hosts: [{name: A!, provider: p, region: r}]", /hosts\.0\.name: lower-case/],
    ["hosts: [{name: a, provider: p}]", /hosts\.0\.region: /],
    ["hosts: [{name: a, provider: p, region: r, driver: xen}]", /hosts\.0\.driver: /],
    ["hosts: [{name: a, provider: p, region: r, share: 2}]", /hosts\.0\.share: /],
    ["hosts: [{name: a, provider: p, region: r, colour: red}]", /colour/],
    [
      "hosts: [{name: a, provider: p, region: r}, {name: a, provider: p, region: r}]",
      /hosts\.1\.name: .*twice/,
    ],
    [
      "hosts: [{name: a, provider: p, region: r, location: {latitude: 91, longitude: 0}}]",
      /location\.latitude/,
    ],
  ];
  for (const [yaml, mistake] of wrong) {
    const fault = catchFault(() => parseTopology(yaml));
    t.equal(fault.reason, "TOPOLOGY_INVALID", yaml);
    t.match(fault.message, mistake, yaml);
  }
});

await t.test("a host's labels are those of the contract", async (t) => {
  const [siteA] = builtInTopology.hosts;
  t.strictSame(siteA && toHostLabels(siteA), {
    provider: "aws",
    region: "us-east-1",
    zone: "us-east-1a",
    labels: {},
    location: { latitude: 39.04, longitude: -77.49, city: "Ashburn", country: "USA" },
    prices: { cpuPerHour: 0.05, memoryPerGb: 0.01, currency: "USD" },
  });
});

await t.test("each program gets its own settings and no other's", async (t) => {
  const base = {
    HOME: "/home/someone",
    PORT: "1",
    DATABASE_URL: "postgresql://elsewhere",
    SKERRY_TOPOLOGY: "t.yaml",
    SKERRY_URL: "http://elsewhere",
    SKERRY_LOG_LEVEL: "debug",
    SKERRY_AGENT_LOG_LEVEL: "debug",
  };
  const settings = readLocalSettings({ PORT: "8123", SKERRY_HOME: "data" }, "/checkout");
  t.equal(settings.home, "/checkout/data", "the data folder is seen from the checkout");
  const controlPlane = controlPlaneEnvironment(base, {
    settings,
    username: "admin",
    passwordFile: "/data/first-password",
    databaseUrl: "postgresql://embedded",
    microDirectory: "/micro",
    imageOverridesFile: "/images.json",
  });
  t.match(controlPlane, {
    HOME: "/home/someone",
    PORT: "8123",
    DATABASE_URL: "postgresql://embedded",
    SKERRY_LOG_LEVEL: "debug",
    SKERRY_FIRST_USERNAME: "admin",
    SKERRY_FIRST_PASSWORD_FILE: "/data/first-password",
  });
  t.notHas(controlPlane, { SKERRY_TOPOLOGY: String, SKERRY_URL: String });
  t.notHas(controlPlane, { SKERRY_AGENT_LOG_LEVEL: String });

  const [siteA] = builtInTopology.hosts;
  if (!siteA) throw new Error("there is no first site");
  const given = {
    host: siteA,
    gateway: "127.0.0.1:8001",
    dataDirectory: "/data",
    labelsFile: "/labels.json",
    microDirectory: "/micro",
    gpus: false,
  };
  const agent = agentEnvironment({ ...base, ...controlPlane }, { ...given, tokenFile: undefined });
  t.match(agent, { HOME: "/home/someone", SKERRY_AGENT_NAME: "site-a", SKERRY_AGENT_LOG_LEVEL: "debug" });
  const foreign = Object.keys(agent).filter((name) => /^(PORT|DATABASE_URL|SKERRY_(?!AGENT_))/.test(name));
  t.strictSame(foreign, [], "an agent learns neither the database nor the first password");
  t.notOk("SKERRY_AGENT_TOKEN_FILE" in agent, "a host that has joined gets no token");
  t.match(agentEnvironment(base, { ...given, tokenFile: "/token" }), { SKERRY_AGENT_TOKEN_FILE: "/token" });
  t.equal(agent["SKERRY_AGENT_CDI_FOLDERS"], "", "agents of one machine do not share its GPUs");
  const first = agentEnvironment(base, { ...given, gpus: true, tokenFile: undefined });
  t.notOk("SKERRY_AGENT_CDI_FOLDERS" in first, "one of them has them");
  t.equal(await reasonOf(() => readLocalSettings({ PORT: "eight" }, "/")), "SETTINGS_INVALID");
});

await t.test("credentials are one user's, and stay", async (t) => {
  const home = t.testdir({});
  const fresh = await loadCredentials(home, "http://127.0.0.1:8000");
  t.equal(fresh.password.length, 24);
  await saveCredentials(home, { ...fresh, api_key: "sk_1" });
  t.equal((await stat(path.join(home, "credentials.json"))).mode & 0o777, 0o600);
  const again = await loadCredentials(home, "http://127.0.0.1:9000");
  t.strictSame(again, { ...fresh, api_key: "sk_1", url: "http://127.0.0.1:9000" });
  await writeFile(path.join(home, "credentials.json"), "{");
  t.equal(await reasonOf(loadCredentials(home, "")), "CREDENTIALS_UNREADABLE");
});

await t.test("one launcher per data folder", async (t) => {
  const home = t.testdir({});
  const lock = await lockHome(home);
  const fault = await lockHome(home).then(
    () => undefined,
    (error: unknown) => error,
  );
  t.ok(isFault(fault, "conflict"));
  t.match((fault as Fault).message, new RegExp(`process ${String(process.pid)}.*SKERRY_HOME`));
  await lock[Symbol.asyncDispose]();

  const file = path.join(home, "launcher.lock");
  const stale = [
    JSON.stringify({ pid: 2 ** 22 + 1, startedTicks: "1" }),
    JSON.stringify({ pid: process.pid, startedTicks: "1" }), // the pid is somebody else's now
    '{"pid":', // torn by a power cut
  ];
  for (const text of stale) {
    await writeFile(file, text);
    await using again = await lockHome(home);
    t.ok(again, `taken over from ${text}`);
  }
  const both = await Promise.allSettled([lockHome(home), lockHome(home)]);
  t.strictSame(both.map((result) => result.status).sort(), ["fulfilled", "rejected"], "of two, one");
});

await t.test("a taken port is named with its setting", async (t) => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  t.teardown(() => server.close());
  const { port } = server.address() as { port: number };
  const fault = await requireFreePort("127.0.0.1", port, "PORT").catch((error: unknown) => error as Fault);
  t.match(fault, { code: "conflict", reason: "PORT_TAKEN", message: /in use.*set PORT/ });
  server.close();
  await once(server, "close");
  await t.resolves(requireFreePort("127.0.0.1", port, "PORT"));
});

await t.test("errors reach the screen once in a while, readiness at once", async (t) => {
  const told: string[] = [];
  let ready = 0;
  let now = 0;
  const tell = (line: string) => void told.push(line);
  const options = { name: "it", logFile: "it.log", tell, onReady: () => ready++ };
  const take = watchLines(options, () => now);
  const error = '{"level":"error","event":"disk.full"}';
  for (const line of ["plain", "{torn", '{"level":"info","event":"x"}', error, error, '{"event":"ready"}'])
    take(line);
  t.strictSame(told, ["it reports disk.full; see it.log"]);
  t.equal(ready, 1);
  now = 60_000;
  take(error);
  t.equal(told.length, 2);
});

await t.test("a child's output, end and stop", async (t) => {
  const directory = t.testdir({});
  const logFile = path.join(directory, "child.log");
  const spawn = (script: string) =>
    Child.spawn({
      name: "the child",
      argv: ["sh", "-c", script],
      env: { PATH: process.env["PATH"] ?? "" },
      directory,
      logFile,
      dieWith: "SIGKILL",
    });
  const ended = await spawn("echo out; echo err >&2; exit 3");
  t.strictSame(await ended.exited, { code: 3, signal: null });
  await until(async () => (await readFile(logFile, "utf8").catch(() => "")).split("\n").length === 3);
  t.strictSame([...ended.tail].sort(), ["err", "out"]);

  const deaf = await spawn("trap '' TERM; echo deaf; exec sleep 60");
  await until(() => deaf.tail.includes("deaf"));
  const exit = await deaf.stop([{ signal: "SIGTERM", waitMs: 50 }]);
  t.strictSame(exit, { code: null, signal: "SIGKILL" }, "who does not listen is killed");
  t.strictSame(await deaf.stop([]), exit, "stopping again is harmless");

  const parent = await spawn("sleep 60 & echo $!");
  await parent.exited;
  await until(() => parent.tail.length === 1);
  await until(() => parent.outputClosed);
  t.pass("what it leaves behind does not keep its output open");
  process.kill(Number(parent.tail[0]), "SIGKILL");

  const missing = Child.spawn({
    name: "the child",
    argv: ["/nowhere/program"],
    env: {},
    directory,
    logFile,
    dieWith: "SIGKILL",
    ownDeathSignal: true,
  });
  t.equal(await reasonOf(missing), "PROGRAM_NOT_STARTED");
});

await t.test("a supervisor restarts, gives up, and stops", async (t) => {
  const directory = t.testdir({});
  const supervise = (script: string, told: string[] = []) =>
    new Supervisor({
      name: "it",
      stopSteps: [{ signal: "SIGTERM", waitMs: 2_000 }],
      restarts: { most: 2, withinMs: 60_000, capMs: 20 },
      tell: (line) => void told.push(line),
      spawn: (ready) =>
        Child.spawn({
          name: "it",
          argv: ["sh", "-c", script],
          env: { PATH: process.env["PATH"] ?? "" },
          directory,
          logFile: path.join(directory, "it.log"),
          dieWith: "SIGKILL",
          onLine: (line) => void (line === "ready" && ready()),
        }),
    });
  const { signal } = new AbortController();
  const forever = "echo ready; exec sleep 60";

  const told: string[] = [];
  const lasting = supervise(forever, told);
  await lasting.start(5_000, signal);
  t.equal(lasting.state, "running");
  const first = lasting.child?.pid;
  lasting.child?.kill("SIGKILL");
  await until(() => lasting.state === "running" && lasting.child?.pid !== first);
  t.equal(lasting.crashes, 1);
  t.match(told, [/it was ended by SIGKILL; starting it again in/]);
  await lasting.restart();
  await until(() => lasting.state === "running");
  t.equal(lasting.crashes, 0, "a restart that was asked for is no crash");
  await lasting.stop();
  t.equal(lasting.state, "stopped");

  const crashing = supervise("echo ready; exit 1");
  await crashing.start(5_000, signal);
  t.match(await crashing.failed, { reason: "PROGRAM_KEEPS_ENDING", message: /exit code 1, 3 times/ });
  t.equal(crashing.state, "failed");

  const wrong = supervise("echo the setting X is wrong; exit 1");
  const fault = await wrong.start(5_000, signal).catch((error: unknown) => error as Fault);
  t.match(fault, { message: /before it was ready/, detail: { last_lines: ["the setting X is wrong"] } });

  const silent = supervise("exec sleep 60");
  t.equal(await reasonOf(silent.start(50, signal)), "TIMEOUT");
  await silent.stop();
});

await t.test("a file's report counts, shows failures, and does not trust silence", async (t) => {
  const lines = [
    "TAP version 14",
    "# Subtest: adds up",
    "    ok 1 - fine",
    "    not ok 2 - bad",
    "      ---",
    "      at: here",
    "      ...",
    "    # | a | table |",
    "    1..2",
    "not ok 1 - adds up # time=1234.5ms",
    "ok 2 - does not",
    "# { total: 3, pass: 2, fail: 1 }",
  ];
  const report = new TapReport();
  const shown = lines.flatMap((line) => report.take(line));
  t.strictSame(shown, [
    "    not ok 2 - bad",
    "      ---",
    "      at: here",
    "      ...",
    "| a | table |",
    "not ok 1 - adds up # time=1234.5ms",
  ]);
  t.strictSame(report.close(1), { passed: 2, failed: 1 });
  t.strictSame(new TapReport().close(0), { passed: 0, failed: 1 }, "nothing ran");
  const crashed = new TapReport();
  for (const line of ["ok 1 - adds up # time=10ms", "# { total: 1, pass: 1 }"]) crashed.take(line);
  t.strictSame(crashed.close(0), { passed: 1, failed: 0 });
  t.strictSame(crashed.close(134), { passed: 1, failed: 1 }, "it ended badly all the same");
  t.strictSame(crashed.close(null), { passed: 1, failed: 1 }, "it was killed");
});

await t.test("a machine is set up with what it lacks", async (t) => {
  const setup = pathToFileURL(path.join(root, "control-plane/local/setup/"));
  const { findDifference } = (await import(new URL("npm-packages.mjs", setup).href)) as {
    findDifference: (wanted: object, installed: object) => string | undefined;
  };
  const wanted = { "": {}, a: { version: "1.0.0" }, b: { version: "2.0.0", optional: true } };
  t.equal(findDifference(wanted, { a: { version: "1.0.0" } }), undefined, "optional ones may be missing");
  t.match(findDifference(wanted, { a: { version: "1.1.0" } }), /a is 1\.1\.0, wanted is 1\.0\.0/);
  t.match(findDifference(wanted, {}), /a is missing/);
  const { requireNode } = (await import(new URL("node-version.mjs", setup).href)) as {
    requireNode: (version?: string) => void;
  };
  for (const version of ["20.19.0", "20.20.2", "22.0.0", "26.1.0"])
    t.doesNotThrow(() => requireNode(version), version);
  for (const version of ["18.20.0", "20.18.3"])
    t.throws(() => requireNode(version), /needs Node 20\.19/, version);
});

function catchFault(work: () => unknown): Fault {
  try {
    work();
  } catch (error) {
    if (isFault(error)) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}
