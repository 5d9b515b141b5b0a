/**
 * `npm run demo` after the set-up: a cloud of two sites, a machine that counts, and the machine's way from one
 * site to the other and back while somebody outside listens to it count. Its folder goes with it.
 */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { Fault, toFault } from "#kernel/fault.ts";
import { createLogger } from "#kernel/log.ts";
import { LocalCloud } from "../cloud.ts";
import type { Environment } from "../child.ts";
import { pickFreePort } from "../ports.ts";
import { nodeProgram, root } from "../programs.ts";
import { describeFault } from "../screen.ts";
import { readLocalSettings } from "../settings.ts";
import { builtInTopology, loadTopology, type Topology } from "../topology.ts";
import { countingScript, CountObserver } from "./observer.ts";

const MiB = 2 ** 20;
const memoryMiB = 256;
const bootLimitMs = 180_000;
const settleLimitMs = 60_000;
/** Counts that are listened to before and after each move, to know the usual step. */
const listened = 40;

const tell = (line: string) => {
  process.stdout.write(`${line}\n`);
};

/** What is read of a migration's receipt. */
interface Moved {
  readonly status: {
    readonly source: { readonly provider: string; readonly region: string };
    readonly target: { readonly provider: string; readonly region: string };
    readonly receipt: {
      readonly downtime_ms: number;
      readonly bytes_sent: number;
      readonly duration_ms: number;
    };
  };
}

async function main(signal: AbortSignal): Promise<number> {
  const home = await mkdtemp(path.join(tmpdir(), "skerry-demo-"));
  try {
    const own = {
      SKERRY_HOME: home,
      PORT: String(await pickFreePort()),
      SKERRY_GATEWAY_PORT: String(await pickFreePort()),
    };
    const settings = readLocalSettings({ ...process.env, ...own, DATABASE_URL: undefined }, root);
    const topology = await loadTopology(settings.topology, builtInTopology);
    const log = createLogger({ level: "error", write: (line) => process.stderr.write(`${line}\n`) });
    const env = process.env as Environment;
    await using cloud = await LocalCloud.start({ settings, topology, env, tell, log, signal });
    const { url, api_key: key } = cloud.credentials;
    const user = new User({ ...env, SKERRY_HOME: home, SKERRY_URL: url, SKERRY_TOKEN: key }, signal);
    const failed = cloud.failed.then((fault) => Promise.reject(fault));
    await Promise.race([show(user, home, topology, signal), failed]);
  } finally {
    await rm(home, { recursive: true, force: true, maxRetries: 5 });
  }
  tell("Nothing of this is left.");
  return 0;
}

async function show(user: User, home: string, { hosts }: Topology, signal: AbortSignal): Promise<void> {
  const [here, there] = hosts;
  if (!here || !there) {
    throw new Fault("invalid", "the demo needs two hosts", { reason: "TOPOLOGY_TOO_SMALL" });
  }
  await mkdir(home, { recursive: true });
  const script = path.join(home, "count.sh");
  await writeFile(script, countingScript);
  tell("\nA machine that counts, aloud on its console and in a file on its disk:");
  const size = ["--cpus", "1", "--memory", `${String(memoryMiB)}m`, "--disk", "1g"];
  const place = ["--provider", here.provider, "--region", here.region];
  await user.run(
    "vm",
    "create",
    "demo",
    "--image",
    "micro",
    ...size,
    ...place,
    "--user-data",
    script,
    "--wait",
  );
  const { id } = await user.read<{ id: string }>("vm", "show", "demo");
  const consoles = [here, there].map(({ name }) =>
    path.join(home, "agents", name, "machines", id, "console.log"),
  );
  using observer = new CountObserver(consoles);
  await observer.more(listened, bootLimitMs, signal);
  tell(`It has counted to ${String(observer.counts.at(-1)?.n)}.`);

  for (const target of [there, here]) {
    const before = observer.counts.length;
    await observer.more(listened, settleLimitMs, signal);
    tell("");
    await user.run("vm", "migrate", "demo", "--to", `${target.provider}/${target.region}`);
    await observer.more(listened, settleLimitMs, signal);
    tellMove(await user.read<Moved>("migration", "show", "demo"), observer, before);
    const { lines, wrong } = await observer.checkDisk(settleLimitMs, signal);
    tell(`  on its disk:        ${String(lines)} counts, ${String(wrong)} of them wrong`);
    if (wrong > 0 || observer.repeated > 0) {
      const detail = { wrong, repeated: observer.repeated };
      throw new Fault("internal", "the machine did not come through the move whole", { detail });
    }
  }
  tell("");
  await user.run("migration", "ls");
}

/** What somebody outside has noticed, beside what the hosts have measured. */
function tellMove({ status: { receipt } }: Moved, observer: CountObserver, since: number): void {
  const { usualMs, longestMs, betweenHosts, pauseMs } = observer.pauseSince(since);
  const sent = receipt.bytes_sent / MiB;
  const ms = (value: number) => `${value.toFixed(0)} ms`;
  tell("Seen from outside:");
  const where = betweenHosts ? "the first of the new host" : "one";
  tell(`  counts came every   ${ms(usualMs)}, ${where} after ${ms(longestMs)}`);
  tell(`  so the pause was    ${ms(pauseMs)} (the hosts measured ${ms(receipt.downtime_ms)})`);
  tell(`  counted twice:      ${String(observer.repeated)}`);
  tell(
    `  sent:               ${sent.toFixed(1)} MiB for ${String(memoryMiB)} MiB of memory and its disk` +
      ` (${((100 * sent) / memoryMiB).toFixed(1)} % of the memory)`,
  );
}

/** Somebody at the command line of this cloud. */
class User {
  readonly #env: Environment;
  readonly #signal: AbortSignal;

  constructor(env: Environment, signal: AbortSignal) {
    this.#env = env;
    this.#signal = signal;
  }

  /** Runs a command in this terminal, with its live view. */
  async run(...args: readonly string[]): Promise<void> {
    tell(`$ skerry ${args.join(" ")}`);
    const [program, ...rest] = nodeProgram("sdk/cli/main");
    const child = spawn(program, [...rest, ...args], {
      cwd: root,
      env: this.#env,
      signal: this.#signal,
      stdio: ["ignore", "inherit", "inherit"],
    });
    const [code] = (await once(child, "close")) as [number | null];
    if (code !== 0) {
      throw new Fault("conflict", `\`skerry ${args.slice(0, 2).join(" ")}\` did not succeed`, {
        reason: "DEMO_FAILED",
      });
    }
  }

  /** Runs a command and gives its result. */
  async read<T>(...args: readonly string[]): Promise<T> {
    const [program, ...rest] = nodeProgram("sdk/cli/main");
    const options = { cwd: root, env: this.#env, signal: this.#signal };
    const { stdout } = await promisify(execFile)(program, [...rest, ...args, "-o", "json"], options);
    return JSON.parse(stdout) as T;
  }
}

const stopping = new AbortController();
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(name, () => stopping.abort());
process.exitCode = await main(stopping.signal).catch((error: unknown) => {
  if (stopping.signal.aborted) {
    tell("Stopped. Nothing of this is left.");
    return 130;
  }
  process.stderr.write(`error: ${describeFault(toFault(error))}\n`);
  return 1;
});
