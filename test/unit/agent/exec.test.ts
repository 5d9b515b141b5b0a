import t from "tap";
import { exec, stderrOf } from "#agent/exec.ts";
import { Fault, toFault } from "#kernel/fault.ts";

const signal = AbortSignal.timeout(60_000);
const limits = { signal, timeoutMs: 10_000 };
/** A program that runs the given JavaScript. */
const script = (source: string, ...args: string[]): [string, string[]] => [
  process.execPath,
  ["-e", source, ...args],
];

async function faultOf(work: Promise<unknown>): Promise<Fault> {
  try {
    await work;
  } catch (thrown) {
    return toFault(thrown);
  }
  throw new Error("it should have failed");
}

await t.test("arguments, input and environment arrive as they are", async (t) => {
  const odd = `$(touch x); "quoted", 'it''s'\n\\`;
  const echo = "process.stdin.pipe(process.stdout); console.error(process.argv[1] + process.env.WORD)";
  const result = await exec(...script(echo, odd), { ...limits, input: "in", env: { WORD: "!" } });
  t.same(result, { stdout: "in", stderr: `${odd}!\n` });
});

await t.test("an exit code is a fault; what the program said is in its cause only", async (t) => {
  const fault = await faultOf(exec(...script("console.error('secret path'); process.exit(3)"), limits));
  t.match(fault, { code: "internal", reason: "PROGRAM_FAILED", detail: { exitCode: 3, signal: null } });
  t.notMatch(JSON.stringify([fault.message, fault.detail]), "secret");
  t.match(stderrOf(fault), "secret path");
  t.equal(stderrOf(new Error("another")), "");
});

await t.test("only the end of a long complaint is kept", async (t) => {
  const fault = await faultOf(
    exec(...script("console.error('x'.repeat(1e6) + 'end'); process.exitCode = 1"), limits),
  );
  t.ok(stderrOf(fault).length <= 16 * 1024);
  t.match(stderrOf(fault), /end\n$/);
});

await t.test("a program that is not there", async (t) => {
  const fault = await faultOf(exec("no-such-program", [], limits));
  t.match(fault, { code: "unavailable", reason: "PROGRAM_MISSING", retryable: false });
});

await t.test("too long, too much, no longer wanted: it is killed", async (t) => {
  const forever = script("setInterval(() => {}, 1000)");
  t.match(await faultOf(exec(...forever, { signal, timeoutMs: 200 })), { reason: "TIMEOUT" });
  const flood = script("setInterval(() => process.stdout.write('x'.repeat(65536)), 1)");
  t.match(await faultOf(exec(...flood, { ...limits, maxOutputBytes: 100_000 })), {
    reason: "OUTPUT_TOO_LARGE",
  });
  const cancel = new AbortController();
  const running = faultOf(exec(...forever, { signal: cancel.signal, timeoutMs: 10_000 }));
  setImmediate(() => cancel.abort(new Fault("stale", "superseded")));
  t.match(await running, { code: "stale" });
  t.match(await faultOf(exec(...forever, { ...limits, signal: cancel.signal })), { code: "stale" });
});

await t.test("a program may be ended by what it says", async (t) => {
  const talk = script("let n = 0; setInterval(() => process.stdout.write('line' + n++), 5)");
  const result = await exec(...talk, { ...limits, until: (stdout) => stdout.includes("line3") });
  t.match(result.stdout, /line3/);
  const short = await exec(...script(""), { ...limits, until: () => false, input: "unread ".repeat(50_000) });
  t.equal(short.stdout, "", "ending before that is judged by the exit code; unread input is no failure");
});
