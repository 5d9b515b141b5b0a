/** The command among other programs: what it finds on the machine, a shell that completes it, signals, pipes, terminals. */
import { spawn } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import t from "tap";
import { runCommand } from "#sdk/cli/run.ts";
import type { Terminal } from "#sdk/cli/session.ts";
import { instances, makeCliWorld, web } from "#test/support/cli-world.ts";
import { startCommand } from "#test/support/command-line.ts";
import { until } from "#test/support/until.ts";
import { anInstance, events, page, problem } from "#test/support/scripted-cloud.ts";

await t.test("the doctor finds what is wrong and how to mend it", async (t) => {
  const [healthy, sick] = [await makeCliWorld(t), await makeCliWorld(t)];
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
  const { home, skerry } = await makeCliWorld(t);
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
  const { server, env } = await makeCliWorld(t);
  server.on(`GET ${instances}`, page([web]));
  const listed = await startCommand(t, ["vm", "ls", "-o", "json"], env).ended;
  t.equal(listed.code, 0, listed.err);
  t.same(JSON.parse(listed.out), [web]);
  const usage = await startCommand(t, ["vm", "ls", "--bogus"], env).ended;
  t.match(usage, { code: 2, out: "", err: /^error: unknown option '--bogus'/ });

  server.on(`POST ${instances}/${web.id}/stop`, { body: anInstance({ phase: "stopping" }) });
  server.on(
    `GET ${instances}/${web.id}`,
    events([
      ["present", anInstance({ phase: "stopping" })],
      ["synced", {}],
    ]),
  );
  const waiting = startCommand(t, ["vm", "stop", "web", "--wait"], env);
  await until(() => waiting.ran.err.includes("web: stopping"));
  waiting.child.kill("SIGINT");
  const stopped = await waiting.ended;
  t.equal(stopped.code, 130);
  t.match(stopped.err, /error: interrupted \(INTERRUPTED\)/);

  server.onConsole((socket) => {
    const talk = setInterval(() => socket.send(Buffer.from("more\n")), 5);
    socket.once("close", () => clearInterval(talk));
  });
  const gone = startCommand(t, ["vm", "console", "web"], env);
  gone.child.stdout.once("data", () => gone.child.stdout.destroy());
  const closed = await new Promise<number | null>((resolve) => gone.child.once("exit", resolve));
  t.equal(closed, 0);
});

await t.test("the console types what stdin has and shows what comes", async (t) => {
  const { server, env } = await makeCliWorld(t);
  server.on(`GET ${instances}`, page([web]));
  server.onConsole((socket) => {
    socket.send(Buffer.from("login: "));
    socket.on("message", (data: Buffer) => socket.send(Buffer.from(`got ${data.toString()}`)));
  });
  const joined = startCommand(t, ["vm", "console", "web", "--log"], env);
  await until(() => joined.ran.out.includes("login: "));
  joined.child.stdin.write("root\n");
  await until(() => joined.ran.out.includes("got root\n"));
  joined.child.kill("SIGINT");
  t.equal((await joined.ended).code, 130);
  t.equal(server.asked.find(({ path }) => path.endsWith("/console"))?.query.get("offset"), "0");
});

await t.test("on a terminal the console is raw, and Ctrl-] leaves it", async (t) => {
  const { server, env } = await makeCliWorld(t);
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
