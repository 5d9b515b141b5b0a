/**
 * The real thing for tests and benchmarks: a control plane and agents as processes of their own, on free
 * ports, each to be killed and started at will. Only the machines inside the agents are fake, unless
 * `qemu` is asked for.
 */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Argv, Environment } from "#cp/local/child.ts";
import { loadCredentials, type Credentials } from "#cp/local/credentials.ts";
import { NativeApi } from "#cp/local/native-api.ts";
import { agentEnvironment, controlPlaneEnvironment, nodeProgram, root } from "#cp/local/programs.ts";
import type { LocalSettings } from "#cp/local/settings.ts";
import { parseTopology, toHostLabels, type TopologyHost } from "#cp/local/topology.ts";
import { pickPort } from "./ports.ts";
import { withDatabase, type Teardown } from "./postgres.ts";
import { killProcessesOf } from "./processes.ts";
import { Program } from "./program.ts";
import { until } from "./until.ts";

export interface TestCloudOptions {
  readonly databaseUrl: string;
  /** How many hosts, or the hosts themselves. Default: two, of providers `aws` and `azure`. */
  readonly agents?: number | readonly TopologyHost[];
  readonly driver?: "fake" | "qemu";
  /** Image name -> other image, as a topology's `images`. */
  readonly images?: Readonly<Record<string, string>>;
  /** Added to the control plane's environment, and to each agent's. */
  readonly controlPlaneEnv?: Environment;
  readonly agentEnv?: Environment;
  /** Agents dial this port instead of the gateway's: a proxy in between. */
  readonly gatewayPort?: (realPort: number) => Promise<number>;
  /** Where an agent keeps everything, when not below the cloud's own folder. */
  readonly dataDirectory?: (host: TopologyHost) => string;
  /** Where an agent runs, when not simply here: the program that does so. */
  readonly placeAgent?: (host: TopologyHost, program: AgentProgram) => AgentProgram;
}

export interface AgentProgram {
  readonly argv: Argv;
  readonly env: Environment;
}

export interface TestAgent {
  readonly host: TopologyHost;
  readonly program: Program;
  readonly dataDirectory: string;
}

export interface Answer<Body> {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Body;
}

const startLimitMs = 60_000;

/** A cloud that ends with the test. */
export async function startCloud(t: Teardown, options: Partial<TestCloudOptions> = {}): Promise<TestCloud> {
  const databaseUrl = options.databaseUrl ?? (await withDatabase(t));
  const cloud = await launchCloud({ ...options, databaseUrl });
  t.teardown(() => cloud[Symbol.asyncDispose]());
  return cloud;
}

/** Starts control plane and agents and waits until every host is online. */
export async function launchCloud(options: TestCloudOptions): Promise<TestCloud> {
  const home = await mkdtemp(path.join(tmpdir(), "skc-"));
  try {
    const settings = await chooseSettings(home);
    const url = `http://127.0.0.1:${String(settings.port)}`;
    const credentials = await loadCredentials(home, url);
    const controlPlane = await prepareControlPlane(settings, credentials, options);
    await controlPlane.start();
    const signal = AbortSignal.timeout(startLimitMs);
    const api = new NativeApi(url, "");
    const apiKey = await api.ensureApiKey(credentials, signal);
    const gatewayPort = (await options.gatewayPort?.(settings.gatewayPort)) ?? settings.gatewayPort;
    const agents = await Promise.all(
      listHosts(options).map(async (host) => {
        const token = await api.createEnrolmentToken(host.name, signal);
        const { agentEnv: env, placeAgent: place = (_host, program) => program } = options;
        const dataDirectory = options.dataDirectory?.(host) ?? path.join(home, host.name);
        const agent = await prepareAgent({ host, token, settings, gatewayPort, dataDirectory, env, place });
        await agent.program.start();
        return agent;
      }),
    );
    const cloud = new TestCloud({
      home,
      url,
      credentials,
      apiKey,
      controlPlane,
      agents,
      databaseUrl: options.databaseUrl,
    });
    await cloud.untilHosts("online");
    return cloud;
  } catch (error) {
    await clear(home);
    throw error;
  }
}

interface Parts {
  readonly home: string;
  readonly url: string;
  readonly credentials: Credentials;
  readonly apiKey: string;
  readonly databaseUrl: string;
  readonly controlPlane: Program;
  readonly agents: readonly TestAgent[];
}

export class TestCloud implements AsyncDisposable {
  readonly url: string;
  /** The first user's. */
  readonly credentials: Credentials;
  readonly apiKey: string;
  readonly databaseUrl: string;
  readonly controlPlane: Program;
  readonly agents: readonly TestAgent[];
  readonly #home: string;

  constructor({ home, url, credentials, apiKey, databaseUrl, controlPlane, agents }: Parts) {
    this.url = url;
    this.credentials = credentials;
    this.apiKey = apiKey;
    this.databaseUrl = databaseUrl;
    this.controlPlane = controlPlane;
    this.agents = agents;
    this.#home = home;
  }

  /** One request to any public API with the first user's key; the body is parsed when it is JSON. */
  async request<Body = unknown>(
    method: string,
    pathname: string,
    body?: unknown,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<Answer<Body>> {
    const content = body === undefined ? {} : { "content-type": "application/json" };
    const response = await fetch(new URL(pathname, this.url), {
      method,
      headers: { authorization: `Token ${this.apiKey}`, ...content, ...headers },
      signal: AbortSignal.timeout(startLimitMs),
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    const isJson = text !== "" && (response.headers.get("content-type") ?? "").includes("json");
    return {
      status: response.status,
      headers: response.headers,
      body: (isJson ? JSON.parse(text) : text) as Body,
    };
  }

  /** Waits until all hosts, or those named, are in the phase. */
  async untilHosts(phase: string, names = this.agents.map((agent) => agent.host.name)): Promise<void> {
    const api = new NativeApi(this.url, this.apiKey);
    await until(
      async () => {
        const hosts = await api.listHosts(AbortSignal.timeout(60_000));
        return names.every((name) => hosts.some((host) => host.name === name && host.phase === phase));
      },
      startLimitMs,
      20,
    );
  }

  /** Agents first, as the product does; then whatever is left, guests included, is killed. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await Promise.all(this.agents.map((agent) => agent.program.stop()));
      await this.controlPlane.stop();
    } finally {
      await clear(this.#home);
    }
  }
}

async function chooseSettings(home: string): Promise<LocalSettings> {
  const [port, gatewayPort] = [await pickPort(), await pickPort()];
  const microDirectory =
    process.env["SKERRY_MICRO_DIR"] ?? path.join(root, "node_modules/.cache/skerry/micro");
  return {
    home,
    port,
    gatewayPort,
    microDirectory,
    listen: "127.0.0.1",
    gatewayListen: "127.0.0.1",
    databaseUrl: undefined,
    topology: undefined,
  };
}

async function prepareControlPlane(
  settings: LocalSettings,
  credentials: Credentials,
  { databaseUrl, images = {}, controlPlaneEnv = {} }: TestCloudOptions,
): Promise<Program> {
  const imageOverridesFile = path.join(settings.home, "image-overrides.json");
  await writeFile(imageOverridesFile, JSON.stringify(images));
  const microDirectory = settings.microDirectory ?? "";
  const { username, password } = credentials;
  const passwordFile = path.join(settings.home, "first-password");
  await writeFile(passwordFile, password, { mode: 0o600 });
  const given = { settings, databaseUrl, microDirectory, username, passwordFile, imageOverridesFile };
  return new Program({
    name: "the control plane",
    argv: nodeProgram("control-plane/main"),
    env: { ...controlPlaneEnvironment(inheritedEnvironment(), given), ...controlPlaneEnv },
    logFile: path.join(settings.home, "control-plane.log"),
    announcesReady: true,
  });
}

async function prepareAgent(options: {
  readonly host: TopologyHost;
  readonly settings: LocalSettings;
  readonly token: string;
  readonly gatewayPort: number;
  readonly dataDirectory: string;
  readonly env: Environment | undefined;
  readonly place: NonNullable<TestCloudOptions["placeAgent"]>;
}): Promise<TestAgent> {
  const { host, settings, token, dataDirectory } = options;
  const { home, microDirectory = "" } = settings;
  await mkdir(dataDirectory, { recursive: true, mode: 0o700 });
  const labelsFile = path.join(home, `${host.name}.labels.json`);
  await writeFile(labelsFile, JSON.stringify(toHostLabels(host)));
  const gateway = `127.0.0.1:${String(options.gatewayPort)}`;
  const tokenFile = path.join(home, `${host.name}.token`);
  await writeFile(tokenFile, token, { mode: 0o600 });
  const given = { host, gateway, dataDirectory, labelsFile, microDirectory, tokenFile, gpus: false };
  const program = new Program({
    name: `the agent of ${host.name}`,
    ...options.place(host, {
      argv: nodeProgram("agent/main"),
      env: { ...agentEnvironment(inheritedEnvironment(), given), ...noPodman(host), ...options.env },
    }),
    logFile: path.join(home, `${host.name}.log`),
    announcesReady: false,
  });
  return { host, program, dataDirectory };
}

/** Tests that want real containers say so: to try whether they run costs each agent a second. */
const noPodman = ({ driver }: TopologyHost): Environment =>
  driver === "fake" ? {} : { SKERRY_AGENT_CONTAINERS: "off" };

/** Sites by turns of two providers, in regions that are far enough apart to be told apart. */
function listHosts({ agents = 2, driver = "fake" }: TestCloudOptions): readonly TopologyHost[] {
  if (typeof agents !== "number") return agents;
  const sites = [
    {
      provider: "aws",
      region: "us-east-1",
      zone: "us-east-1a",
      location: { latitude: 39.04, longitude: -77.49 },
    },
    {
      provider: "azure",
      region: "eastus",
      zone: "eastus-1",
      location: { latitude: 36.67, longitude: -78.39 },
    },
  ];
  const hosts = Array.from({ length: agents }, (_, index) => ({
    ...sites[index % sites.length],
    name: `site-${String(index + 1)}`,
    driver,
    share: Math.min(0.5, 1 / agents),
  }));
  return parseTopology(JSON.stringify({ hosts })).hosts; // JSON is YAML
}

/** What this process was given, but for settings: a test is not to depend on somebody's shell. */
function inheritedEnvironment(): Environment {
  const entries = Object.entries(process.env as Environment);
  return Object.fromEntries(entries.filter(([name]) => !name.startsWith("SKERRY_")));
}

async function clear(home: string): Promise<void> {
  await killProcessesOf(home);
  await rm(home, { recursive: true, force: true });
}
