import { constants } from "node:fs";
import { access, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import t from "tap";
import { parse } from "yaml";
import { Fault } from "#kernel/fault.ts";
import { printable } from "#kernel/printable.ts";
import { generatedPath, generateSdk } from "#test/support/generate-sdk.ts";
import { findAgentHomes, findEmulationReason } from "#sdk/cli/agent-home.ts";
import { Output, type Format } from "#sdk/cli/output.ts";
import { describeFault } from "#sdk/cli/errors.ts";
import { judgeCertificate } from "#sdk/cli/doctor/certificates.ts";
import { checkClock } from "#sdk/cli/doctor/cloud.ts";
import { checkKvm } from "#sdk/cli/doctor/kvm.ts";
import { checkNode, findLibvirt } from "#sdk/cli/doctor/machine.ts";
import { formatEnvironment, parseEnvironment, renderUnit } from "#sdk/cli/systemd.ts";
import {
  collectPair,
  formatDuration,
  formatSize,
  parseDuration,
  parseInteger,
  parseSize,
} from "#sdk/cli/units.ts";

await t.test("the SDK's types are those of the kinds", async (t) => {
  const hint = "run: node --conditions=development --import=tsx test/support/generate-sdk.ts";
  t.equal(await readFile(generatedPath, "utf8"), await generateSdk(), hint);
});

await t.test("sizes and durations", async (t) => {
  const sizes = {
    "512": 512,
    "512m": 512 * 1024 ** 2,
    "2g": 2 * 1024 ** 3,
    "1.5 GiB": 1.5 * 1024 ** 3,
    "1TB": 1024 ** 4,
  };
  for (const [text, bytes] of Object.entries(sizes)) t.equal(parseSize(text), bytes, text);
  for (const text of ["", "g", "-1g", "2x", "1e3", "2gg", "99999999t"]) t.throws(() => parseSize(text), text);
  t.same([0, 1023, 1024, 1536, 2 * 1024 ** 3, 5000 * 1024 ** 4].map(formatSize), [
    "0 B",
    "1023 B",
    "1 KiB",
    "1.5 KiB",
    "2 GiB",
    "5000 TiB",
  ]);
  t.same(["90", "90s", "5m", "1.5h", "7d"].map(parseDuration), [90e3, 90e3, 300e3, 5400e3, 604800e3]);
  for (const text of ["", "m", "-5m", "5 weeks"]) t.throws(() => parseDuration(text), text);
  t.same([0, 119e3, 120e3, 7200e3, 172800e3, -5].map(formatDuration), ["0s", "119s", "2m", "2h", "2d", "0s"]);
  t.equal(parseInteger(1, 9)("7"), 7);
  for (const text of ["0", "10", "1.5", "", "x"]) t.throws(() => parseInteger(1, 9)(text), text);
  t.same(collectPair("b=c=d", collectPair("a")), { a: "", b: "c=d" });
  t.throws(() => collectPair("=x"));
});

await t.test("what the cloud says cannot take over the terminal", async (t) => {
  t.equal(printable("a\u001b[2Jb\r\n\u009b"), "a\\x1b[2Jb\\x0d\\x0a\\x9b");
  t.equal(printable("a\nb", true), "a\nb");
  t.equal(printable("a\u202eb\u2028c"), "a\\u202eb\\u2028c", "text that is turned round");
  let written = "";
  const out = new Output({ sink: { write: (text) => (written += text) }, format: "table", colour: true });
  const columns = [
    { title: "NAME", value: (each: { name: string }) => each.name },
    { title: "PHASE", value: () => "running", phase: true as const },
    { title: "N", value: () => "1", align: "right" as const },
  ];
  out.list([{ name: "wéb\u001b" }, { name: "" }], columns);
  t.equal(
    written,
    "NAME     PHASE    N\nwéb\\x1b  \u001b[32mrunning\u001b[0m  1\n-        \u001b[32mrunning\u001b[0m  1\n",
  );
  const odd = {
    name: 'web\r\nforged  running\u001b[2J\u009b1m\u202e\u2028","phase":"x',
    "k\u0085": ["\u007f"],
  };
  const print = (format: Format) => {
    written = "";
    new Output({ sink: { write: (text) => (written += text) }, format, colour: false }).list([odd], columns);
    return written;
  };
  t.equal(print("table").split("\n").length, 3, "one line each");
  for (const [format, read] of [
    ["json", (text: string) => JSON.parse(text) as unknown],
    ["yaml", (text: string) => parse(text) as unknown],
  ] as const) {
    const text = print(format);
    t.same(read(text), [odd], format);
    t.notMatch(text, /[^\P{Cc}\n]|\p{Bidi_Control}|\u2028/u, format);
  }
});

await t.test("a fault is told in lines, with what there is and what to do", async (t) => {
  const detail = {
    known: ["micro", "web\u001b[2J"],
    fields: [{ field: "spec.image", message: "there is no such image" }],
  };
  const reason = "VALIDATION_ERROR";
  const unknown = new Fault("invalid", "spec.image: there is no such image", { reason, detail });
  t.equal(
    describeFault(unknown),
    "error: spec.image: there is no such image (VALIDATION_ERROR)\n  known: micro, web\\x1b[2J\n",
  );
  const refused = (reason: string) => describeFault(new Fault("unauthenticated", "no", { reason }));
  t.equal(refused("TOKEN_INVALID"), "error: no (TOKEN_INVALID)\nhint: log in with `skerry login`\n");
  t.equal(refused("INVALID_CREDENTIALS"), "error: no (INVALID_CREDENTIALS)\n", "of a login itself");
  t.match(refused("MFA_REQUIRED"), /--mfa-code/);
});

await t.test(
  "the unit lets machines outlive the agent, and settings survive systemd's quoting",
  async (t) => {
    const unit = renderUnit({
      node: "/usr/bin/node",
      args: ["/opt/my cloud/100%/main.js"],
      settingsFile: "/var/lib/my agent/50%/agent.env",
      workingDirectory: "/opt/my cloud",
    });
    t.match(unit, /^KillMode=process$/m);
    t.match(
      unit,
      "\nEnvironmentFile=/var/lib/my agent/50%%/agent.env\n",
      "systemd takes quotes for part of a path",
    );
    t.match(unit, "\nWorkingDirectory=/opt/my cloud\n");
    t.match(unit, 'ExecStart=/usr/bin/node "/opt/my cloud/100%%/main.js"\n');
    const settings = { B: 'say "hi" \\ $HOME `id`', A: "", C: "x=y z" };
    t.same(parseEnvironment(formatEnvironment(settings)), settings);
    t.equal(formatEnvironment({ B: "2", A: "1" }), 'A="1"\nB="2"\n');
  },
);

await t.test("what agents leave on their machine", async (t) => {
  const acceleration = { acceleration: "tcg", reason: "a guest did not boot" };
  const driver = (verdict: object) => ({ driver: { "acceleration.json": JSON.stringify(verdict) } });
  const home = t.testdir({
    agents: { slow: driver(acceleration), quick: driver({ acceleration: "kvm" }), "slow.token": "one" },
  });
  const homes = (await findAgentHomes([home])).filter((each) => each.startsWith(home));
  t.same(homes.map((each) => basename(each)).sort(), ["quick", "slow"], "a token is no agent");
  t.equal(await findEmulationReason(join(home, "agents", "slow")), "a guest did not boot");
  t.equal(await findEmulationReason(join(home, "agents", "quick")), undefined);
  t.equal(await findEmulationReason(home), undefined, "nothing was tried");

  const opens = await access("/dev/kvm", constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  const { status, detail } = await checkKvm(homes, AbortSignal.timeout(100));
  t.equal(status, "warn");
  if (opens) t.match(detail, "a guest did not boot", "one agent's verdict outranks another try");
});

await t.test("what the doctor makes of what it finds", async (t) => {
  const unbuilt = await findLibvirt(AbortSignal.timeout(60_000), () =>
    Promise.reject(new Error("not built")),
  );
  for (const finding of unbuilt) t.match(finding, { status: "warn", remedy: /libvirt-dev/ });
  t.match(checkNode("20.18.3"), { status: "fail", remedy: /20\.19/ });
  t.match(checkNode("20.19.0"), { status: "ok" });
  t.match(checkNode("24.1.0"), { status: "ok" });

  const noon = Date.parse("2026-01-01T12:00:00.500Z");
  const date = new Date(noon).toUTCString();
  t.match(checkClock(date, noon - 100, noon + 100), { status: "ok" });
  t.match(checkClock(date, noon + 5_000, noon + 5_200), { status: "warn", detail: /5 s ahead/ });
  t.match(checkClock(date, noon - 90_000, noon - 90_000), { status: "fail", detail: /90 s behind/ });
  t.match(checkClock(null, noon, noon), { status: "warn" });

  const day = 86_400_000;
  const certificate = { hostId: "host-1", validFrom: new Date(0), validTo: new Date(30 * day) };
  const at = (days: number) => judgeCertificate("/a", certificate, days * day);
  t.match(at(-1), { status: "fail", detail: /not valid yet/ });
  t.match(at(1), { status: "ok", detail: "host-1: valid for 29d" });
  t.match(at(25), { status: "warn", detail: /renewal is overdue/ });
  t.match(at(31), { status: "warn", detail: /expired 24h ago/ });
  t.match(judgeCertificate("/a", undefined, 0), { status: "warn", detail: /has not joined/ });
});
