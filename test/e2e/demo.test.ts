/** `npm run demo` from its launcher on, with real guests, and the ears of its observer. */
import { appendFile, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import t from "tap";
import { Child, type Environment } from "#cp/local/child.ts";
import { CountObserver } from "#cp/local/demo/observer.ts";
import { nodeProgram, root } from "#cp/local/programs.ts";
import { findProcessesOf, killProcessesOf } from "#test/support/processes.ts";
import { until } from "#test/support/until.ts";

const demoLimitMs = 240_000;
const { signal } = new AbortController();

const home = await mkdtemp(path.join(tmpdir(), "skd-"));
t.teardown(async () => {
  await killProcessesOf(home);
  await rm(home, { recursive: true, force: true });
});

void t.test("the observer hears pauses, repetitions and what the disk says", async (t) => {
  const [first, second] = [path.join(home, "a.log"), path.join(home, "b.log")];
  using observer = new CountObserver([first, second]);
  await writeFile(first, "login: \r\ncount 1\r\ncount 2\r\ncou");
  await until(() => observer.counts.length === 2);
  await appendFile(first, "nt 3\r\njournal 3 0\r\n");
  await observer.more(0, 1000, signal);
  await until(() => observer.counts.length === 3);
  t.same(await observer.checkDisk(1000, signal), { lines: 3, wrong: 0 });
  await t.rejects(observer.more(1, 50, signal), { code: "unavailable", reason: "TIMEOUT" });

  await writeFile(second, "count 4\ncount 5\n");
  await until(() => observer.counts.length === 5);
  t.same(
    observer.counts.map(({ n, source }) => [n, source]),
    [
      [1, 0],
      [2, 0],
      [3, 0],
      [4, 1],
      [5, 1],
    ],
  );
  const pause = observer.pauseSince(1);
  t.ok(pause.betweenHosts, "the longest step is the one from host to host");
  t.ok(pause.longestMs >= 50 && pause.pauseMs <= pause.longestMs, JSON.stringify(pause));
  t.equal(observer.repeated, 0);

  await rm(first);
  await writeFile(first, "count 6\n");
  await until(() => observer.counts.length === 6);
  t.equal(observer.counts.at(-1)?.source, 0, "a log that begins anew is read anew");
  await appendFile(second, "count 6\n");
  await until(() => observer.repeated === 1);
});

void t.test("the demo moves a machine there and back and leaves nothing", async (t) => {
  const screen: string[] = [];
  const clean = Object.entries(process.env as Environment).filter(
    ([name]) => !/^(SKERRY_|DATABASE_URL$|PORT$)/.test(name),
  );
  const micro =
    process.env["SKERRY_MICRO_DIR"] ?? path.join(root, "node_modules", ".cache", "skerry", "micro");
  const demo = await Child.spawn({
    name: "the demo",
    argv: nodeProgram("control-plane/local/demo/main"),
    env: { ...Object.fromEntries(clean), SKERRY_MICRO_DIR: micro, TMPDIR: home },
    directory: root,
    logFile: path.join(home, "screen.log"),
    dieWith: "SIGTERM",
    onLine: (line) => void screen.push(line),
  });
  await until(() => demo.exit !== undefined, demoLimitMs);
  const text = screen.join("\n");
  t.equal(demo.exit?.code, 0, text);
  t.equal(
    screen.filter((line) => /^demo has moved from \S+ to \S+\. It stood still for/.test(line)).length,
    2,
  );
  t.equal(
    screen.filter((line) => /^ {2}so the pause was +\d+ ms \(the hosts measured \d+ ms\)$/.test(line)).length,
    2,
  );
  t.equal(screen.filter((line) => /^ {2}counted twice: +0$/.test(line)).length, 2);
  t.equal(screen.filter((line) => /^ {2}on its disk: +\d+ counts, 0 of them wrong$/.test(line)).length, 2);
  t.match(text, /mig-\w+ +demo +complete +aws\/us-east-1 +azure\/eastus/);
  t.match(text, /mig-\w+ +demo +complete +azure\/eastus +aws\/us-east-1/);
  t.match(screen.at(-1), /^Nothing of this is left\.$/);
  const left = (await readdir(home)).filter((name) => name.startsWith("skerry-demo-"));
  t.same(left, [], "its folder is gone");
  t.same(await findProcessesOf(path.join(home, "skerry-demo-")), [], "nothing runs any more");
});
