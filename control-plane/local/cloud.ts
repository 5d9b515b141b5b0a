/**
 * A whole cloud on one machine: database, control plane, agents. Started in this order and stopped in
 * the reverse one, each with a limit, so that guests end before what records their end does.
 */
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { deadline, sleep } from "#kernel/retry.ts";
import { Child, type Environment, type StopStep } from "./child.ts";
import { loadCredentials, saveCredentials, type Credentials } from "./credentials.ts";
import { NativeApi } from "./native-api.ts";
import { requireFreePort } from "./ports.ts";
import { EmbeddedPostgres, postgresStopSteps } from "./postgres.ts";
import { agentEnvironment, controlPlaneEnvironment, nodeProgram, root } from "./programs.ts";
import { watchLines, type Tell } from "./screen.ts";
import type { LocalSettings } from "./settings.ts";
import { Supervisor } from "./supervisor.ts";
import { toHostLabels, type Topology, type TopologyHost } from "./topology.ts";

export interface LocalCloudOptions {
  readonly settings: LocalSettings;
  readonly topology: Topology;
  readonly env: Environment;
  readonly tell: Tell;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

const startLimitMs = 60_000;
/** A new host proves its acceleration by booting a guest, under emulation, before it first reports. */
const onlineLimitMs = 120_000;
const keptLogs = 3;
/** Guests are powered off at once, so this is the time for writing their disks out. */
const agentStop: readonly StopStep[] = [{ signal: "SIGTERM", waitMs: 45_000 }];
const controlPlaneStop: readonly StopStep[] = [{ signal: "SIGTERM", waitMs: 15_000 }];

export class LocalCloud implements AsyncDisposable {
  readonly #options: LocalCloudOptions;
  readonly #url: string;
  #database: Supervisor | undefined;
  #controlPlane: Supervisor | undefined;
  #agents: Supervisor[] = [];
  #credentials: Credentials | undefined;
  #fail: (fault: Fault) => void = () => undefined;
  /** Resolves when a part without which there is no cloud has been given up. */
  readonly failed: Promise<Fault>;

  private constructor(options: LocalCloudOptions) {
    this.#options = options;
    this.#url = publicUrl(options.settings);
    this.failed = new Promise((resolve) => (this.#fail = resolve));
  }

  /** Starts everything and waits until the hosts are online; stops what it had started when that fails. */
  static async start(options: LocalCloudOptions): Promise<LocalCloud> {
    const cloud = new LocalCloud(options);
    try {
      await cloud.#start();
      return cloud;
    } catch (error) {
      await cloud.stop();
      throw error;
    }
  }

  get credentials(): Credentials {
    if (!this.#credentials) throw new Fault("internal", "the cloud has not started");
    return this.#credentials;
  }

  /** Restarts the control plane (and migrates), as after a change of its sources. */
  async restartControlPlane(): Promise<void> {
    await this.#controlPlane?.restart();
  }

  async restartAgents(): Promise<void> {
    await Promise.all(this.#agents.map((agent) => agent.restart()));
  }

  /** Guests and agents, then the control plane, then the database. Safe to call twice. */
  async stop(): Promise<void> {
    const { tell } = this.#options;
    if (this.#agents.length > 0) tell("Stopping guests and agents ...");
    await settleAll(this.#agents.map((agent) => agent.stop()));
    if (this.#controlPlane) tell("Stopping the control plane and the database ...");
    await this.#controlPlane?.stop();
    await this.#database?.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #start(): Promise<void> {
    const { settings, signal } = this.#options;
    await requireFreePort(settings.listen, settings.port, "PORT");
    await requireFreePort(settings.gatewayListen, settings.gatewayPort, "SKERRY_GATEWAY_PORT");
    await mkdir(path.join(settings.home, "log"), { recursive: true, mode: 0o700 });
    await rotateLogs(path.join(settings.home, "log"));

    let credentials = await loadCredentials(settings.home, this.#url);
    // Before the first user exists: a start that is cut off later must still know the password.
    await saveCredentials(settings.home, credentials);
    const databaseUrl = settings.databaseUrl ?? (await this.#startDatabase());
    await this.#startControlPlane(databaseUrl, credentials);

    const api = new NativeApi(this.#url, credentials.api_key);
    credentials = { ...credentials, api_key: await api.ensureApiKey(credentials, signal) };
    await saveCredentials(settings.home, credentials);
    this.#credentials = credentials;
    await this.#startAgents(api);
    await this.#untilOnline(api);
  }

  async #startDatabase(): Promise<string> {
    const { settings, log, signal, tell } = this.#options;
    const logFile = this.#logFile("postgres");
    let url = "";
    this.#database = this.#supervise("PostgreSQL", postgresStopSteps, async (ready) => {
      const directory = path.join(settings.home, "postgres");
      const server = await EmbeddedPostgres.start({ directory, logFile, log, signal });
      url = server.url;
      ready();
      return server.child;
    });
    tell("Starting PostgreSQL ...");
    await this.#startEssential(this.#database);
    return url;
  }

  async #startControlPlane(databaseUrl: string, credentials: Credentials): Promise<void> {
    const { settings, topology, env, tell } = this.#options;
    const imageOverridesFile = path.join(settings.home, "image-overrides.json");
    await writeFile(imageOverridesFile, JSON.stringify(topology.images));
    const { username, password } = credentials;
    const passwordFile = path.join(settings.home, "first-password");
    await writeFile(passwordFile, password, { mode: 0o600 });
    const microDirectory = this.#microDirectory();
    const logFile = this.#logFile("control-plane");
    this.#controlPlane = this.#supervise("the control plane", controlPlaneStop, (ready) =>
      Child.spawn({
        name: "the control plane",
        argv: nodeProgram("control-plane/main"),
        env: controlPlaneEnvironment(env, {
          settings,
          databaseUrl,
          microDirectory,
          username,
          passwordFile,
          imageOverridesFile,
        }),
        directory: root,
        logFile,
        dieWith: "SIGKILL",
        onLine: watchLines({ name: "the control plane", logFile, tell, onReady: ready }),
      }),
    );
    tell("Starting the control plane ...");
    await this.#startEssential(this.#controlPlane);
  }

  async #startAgents(api: NativeApi): Promise<void> {
    const { topology, signal, tell } = this.#options;
    const known = new Set((await api.listHosts(signal)).map((host) => host.name));
    tell(`Starting ${String(topology.hosts.length)} agents ...`);
    for (const host of topology.hosts) {
      const dataDirectory = path.join(this.#options.settings.home, "agents", host.name);
      const joined = known.has(host.name) && (await isFilled(dataDirectory));
      const tokenFile = `${dataDirectory}.token`;
      await mkdir(dataDirectory, { recursive: true, mode: 0o700 });
      await rm(tokenFile, { force: true });
      if (!joined) {
        const token = await api.createEnrolmentToken(host.name, signal);
        await writeFile(tokenFile, token, { mode: 0o600 });
      }
      const agent = await this.#prepareAgent(host, dataDirectory, joined ? undefined : tokenFile);
      this.#agents.push(agent);
      await agent.start(startLimitMs, signal);
      void agent.failed.then((fault) => tell(`${fault.message}; its host stays offline`));
    }
  }

  async #prepareAgent(
    host: TopologyHost,
    dataDirectory: string,
    tokenFile: string | undefined,
  ): Promise<Supervisor> {
    const { settings, env, tell, topology } = this.#options;
    const labelsFile = path.join(dataDirectory, "labels.json");
    await writeFile(labelsFile, JSON.stringify(toHostLabels(host)));
    const gateway = `${reachable(settings.gatewayListen)}:${String(settings.gatewayPort)}`;
    const microDirectory = this.#microDirectory();
    const name = `the agent of ${host.name}`;
    const logFile = this.#logFile(`agent-${host.name}`);
    return this.#supervise(name, agentStop, async (ready) => {
      const child = await Child.spawn({
        name,
        argv: nodeProgram("agent/main"),
        env: agentEnvironment(env, {
          ...{ host, gateway, dataDirectory, labelsFile, microDirectory, tokenFile },
          gpus: host === topology.hosts.find(({ driver }) => driver !== "fake"),
        }),
        directory: root,
        logFile,
        // Guests outlive their agent; the next start finds them again.
        dieWith: "SIGKILL",
        onLine: watchLines({ name, logFile, tell }),
      });
      ready();
      return child;
    });
  }

  async #untilOnline(api: NativeApi): Promise<void> {
    const { topology, signal, tell } = this.#options;
    using limit = deadline(onlineLimitMs, "waiting for the hosts", signal);
    let missing = topology.hosts.map((host) => host.name);
    for (;;) {
      const online = new Set(
        (await api.listHosts(signal)).filter((host) => host.phase === "online").map((host) => host.name),
      );
      missing = missing.filter((name) => !online.has(name));
      if (missing.length === 0) return;
      if (limit.aborted) break;
      await sleep(100, signal);
    }
    const logs = path.join(this.#options.settings.home, "log");
    tell(`Not online yet: ${missing.join(", ")}. The agents keep trying; see ${logs}`);
  }

  #supervise(
    name: string,
    stopSteps: readonly StopStep[],
    spawn: (ready: () => void) => Promise<Child>,
  ): Supervisor {
    return new Supervisor({ name, spawn, stopSteps, tell: this.#options.tell });
  }

  async #startEssential(part: Supervisor): Promise<void> {
    await part.start(startLimitMs, this.#options.signal);
    void part.failed.then(this.#fail);
  }

  #microDirectory(): string {
    const { home, microDirectory } = this.#options.settings;
    return microDirectory ?? path.join(home, "cache", "micro");
  }

  #logFile(name: string): string {
    return path.join(this.#options.settings.home, "log", `${name}.log`);
  }
}

/** Where a client on this machine finds the public API. */
function publicUrl({ listen, port }: LocalSettings): string {
  const host = reachable(listen);
  return `http://${host.includes(":") ? `[${host}]` : host}:${String(port)}`;
}

/** "All addresses" is one to listen on, not one to call. */
function reachable(listen: string): string {
  return listen === "0.0.0.0" || listen === "::" ? "127.0.0.1" : listen;
}

async function isFilled(directory: string): Promise<boolean> {
  const entries = await readdir(directory).catch(() => []);
  return entries.some((entry) => entry !== "labels.json");
}

async function rotateLogs(directory: string): Promise<void> {
  const logs = (await readdir(directory)).filter((file) => file.endsWith(".log"));
  for (const log of logs) {
    for (let age = keptLogs; age > 0; age--) {
      const older = path.join(directory, `${log}.${String(age)}`);
      const newer = path.join(directory, age === 1 ? log : `${log}.${String(age - 1)}`);
      await rename(newer, older).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOENT") throw error;
      });
    }
  }
}

/** Waits for all, then throws the first fault: one part that will not end must not keep the others. */
async function settleAll(stops: readonly Promise<void>[]): Promise<void> {
  const results = await Promise.allSettled(stops);
  const failure = results.find((result) => result.status === "rejected");
  if (failure) throw toFault(failure.reason);
}
