/** `skerry agent join` and `skerry agent run`. */
import { spawn, type ChildProcess } from "node:child_process";
import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join, resolve } from "node:path";
import { Fault } from "#kernel/fault.ts";
import { parseEnrolmentToken } from "#kernel/pin.ts";
import { deadline, sleep } from "#kernel/retry.ts";
import { findAgentCertificate } from "../agent-home.ts";
import { checkout } from "../connection.ts";
import type { Session } from "../session.ts";
import { formatEnvironment, parseEnvironment } from "../systemd.ts";
import { makeProbeGuest, programArguments } from "./agent-programs.ts";

interface JoinOptions {
  readonly gateway: string;
  readonly data: string;
  readonly name?: string;
  readonly provider: string;
  readonly region: string;
  readonly zone: string;
  readonly driver: string;
  readonly share: string;
  readonly listen: string;
  readonly timeout?: number;
}

const joinLimitMs = 180_000;
const stopLimitMs = 15_000;

/** The file with the agent's settings, as systemd reads it. */
export const settingsFile = (home: string): string => join(home, "agent.env");

/** node's arguments for running the agent. */
export const agentArguments = (): readonly string[] => programArguments("agent/main");

/** Writes the settings, runs the agent until it has its certificate, and stops it again. */
export async function joinCloud(session: Session, options: JoinOptions): Promise<void> {
  const token = enrolmentToken(session);
  const home = resolve(options.data);
  const known = await findAgentCertificate(home);
  if (known) {
    throw new Fault("conflict", `this machine is ${known.hostId} already; to join afresh, remove ${home}`, {
      reason: "ALREADY_JOINED",
    });
  }
  const settings = await writeSettings(home, options);
  const hostId = await enrol(session, home, { ...settings, SKERRY_AGENT_TOKEN: token }, options.timeout);
  const guest = options.driver === "qemu" ? await makeProbeGuest(session, home) : undefined;
  if (guest !== undefined) await writeEnvironment(home, { ...settings, SKERRY_AGENT_PROBE_GUEST: guest });
  session.out.done(`This machine is ${hostId}. Start its agent: skerry agent install`, {
    id: hostId,
    data: home,
  });
}

/** `--token` is an option of the whole command line; here it is the enrolment token. */
function enrolmentToken({ globals, terminal }: Session): string {
  const token = globals.token ?? terminal.env["SKERRY_AGENT_TOKEN"];
  if (token === undefined) {
    throw new Fault("invalid", "a token is needed: --token, or SKERRY_AGENT_TOKEN", { reason: "NO_TOKEN" });
  }
  parseEnrolmentToken(token);
  return token;
}

async function writeSettings(home: string, options: JoinOptions): Promise<Record<string, string>> {
  const { provider, region, zone, listen } = options;
  const [listenHost, listenPort] = splitAddress(listen);
  const labelsFile = join(home, "labels.json");
  const settings = {
    SKERRY_AGENT_DATA: home,
    SKERRY_AGENT_GATEWAY: options.gateway,
    SKERRY_AGENT_NAME: options.name ?? hostname(),
    SKERRY_AGENT_LABELS_FILE: labelsFile,
    SKERRY_AGENT_DRIVER: options.driver,
    SKERRY_AGENT_SHARE: options.share,
    SKERRY_AGENT_LISTEN_HOST: listenHost,
    SKERRY_AGENT_LISTEN_PORT: listenPort,
  };
  await mkdir(home, { recursive: true, mode: 0o700 });
  await writeFile(labelsFile, `${JSON.stringify({ provider, region, zone, labels: {} })}\n`, { mode: 0o600 });
  // The token is not written down: it is of use once, and that is now.
  await writeEnvironment(home, settings);
  return settings;
}

async function writeEnvironment(home: string, settings: Readonly<Record<string, string>>): Promise<void> {
  await writeFile(settingsFile(home), formatEnvironment(settings), { mode: 0o600 });
  await chmod(settingsFile(home), 0o600);
}

function splitAddress(address: string): [host: string, port: string] {
  const [, host, port] = /^\[?([^\]]*?)\]?:(\d{1,5})$/.exec(address) ?? [];
  if (host && port) return [host, port];
  throw new Fault("invalid", `${address} is not host:port`, { reason: "ADDRESS_INVALID" });
}

async function enrol(
  session: Session,
  home: string,
  settings: Readonly<Record<string, string>>,
  timeoutMs = joinLimitMs,
): Promise<string> {
  using limit = deadline(timeoutMs, "joining the cloud", session.signal);
  using progress = session.progress();
  progress.update("the agent looks at this machine and asks to join");
  const agent = startAgent(settings, ["ignore", "ignore", "pipe"]);
  const log = tailOf(agent);
  try {
    for (;;) {
      const certificate = await findAgentCertificate(home);
      if (certificate) return certificate.hostId;
      if (agent.exitCode !== null || agent.signalCode !== null) {
        throw new Fault(
          "unavailable",
          `the agent ended before it had joined: ${log() || "it said nothing"}`,
          {
            reason: "AGENT_ENDED",
            retryable: false,
          },
        );
      }
      await sleep(200, limit);
    }
  } finally {
    await stopAgent(agent);
  }
}

/** Runs the agent until it ends or is interrupted. */
export async function runAgent(session: Session, options: { data: string }): Promise<void> {
  const file = settingsFile(resolve(options.data));
  const text = await readFile(file, "utf8").catch((cause: unknown) => {
    throw new Fault("notFound", `there is no ${file}: run skerry agent join`, {
      reason: "NOT_JOINED",
      cause,
    });
  });
  const agent = startAgent(parseEnvironment(text), "inherit");
  const ended = new Promise<number>((resolveEnd) => agent.once("exit", (code) => resolveEnd(code ?? 1)));
  session.signal.addEventListener("abort", () => agent.kill("SIGTERM"), { once: true });
  const code = await ended;
  if (code !== 0 && !session.signal.aborted) {
    throw new Fault("unavailable", `the agent ended with code ${code}`, { reason: "AGENT_ENDED" });
  }
}

function startAgent(
  settings: Readonly<Record<string, string>>,
  stdio: "inherit" | ["ignore", "ignore", "pipe"],
): ChildProcess {
  // What the shell has set for the command line is no setting of the agent, which refuses unknown ones.
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("SKERRY_"));
  const env = { ...Object.fromEntries(inherited), ...settings };
  return spawn(process.execPath, agentArguments(), { env, stdio, cwd: checkout });
}

/** The last thing the agent wrote to stderr. */
function tailOf(agent: ChildProcess): () => string {
  let tail = "";
  agent.stderr?.on("data", (bytes: Buffer) => (tail = (tail + bytes.toString()).slice(-2000)));
  return () => tail.trim().split("\n").at(-1) ?? "";
}

async function stopAgent(agent: ChildProcess): Promise<void> {
  if (agent.exitCode !== null || agent.signalCode !== null) return;
  const ended = new Promise((resolveEnd) => agent.once("exit", resolveEnd));
  const force = setTimeout(() => agent.kill("SIGKILL"), stopLimitMs);
  agent.kill("SIGTERM");
  await ended;
  clearTimeout(force);
}
