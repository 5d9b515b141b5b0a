/** How the parts of Skerry are run as programs: from the sources in development, else from the build. */
import path from "node:path";
import { fileURLToPath } from "node:url";
import type { Argv, Environment } from "./child.ts";
import type { LocalSettings } from "./settings.ts";
import type { TopologyHost } from "./topology.ts";

const fromSource = import.meta.url.endsWith(".ts");

/** The checkout's top folder. */
export const root = fileURLToPath(new URL(fromSource ? "../../" : "../../../", import.meta.url));

/** @param module path of a module without its suffix, such as `agent/main` */
export function nodeProgram(module: string): Argv {
  if (!fromSource) return [process.execPath, path.join(root, "dist", `${module}.js`)];
  return [process.execPath, "--conditions=development", "--import=tsx", path.join(root, `${module}.ts`)];
}

export interface ControlPlaneOptions {
  readonly settings: LocalSettings;
  readonly databaseUrl: string;
  readonly microDirectory: string;
  readonly username: string;
  /** File with the first user's password; no secret stands in an environment. */
  readonly passwordFile: string;
  /** JSON file with the topology's image names. */
  readonly imageOverridesFile: string;
}

/** Settings of the command line and the launcher, which a control plane would refuse, and what the launcher decides. */
const otherPrograms = [
  "SKERRY_URL",
  "SKERRY_TOKEN",
  "SKERRY_PROFILE",
  "SKERRY_TOPOLOGY",
  "SKERRY_FIRST_PASSWORD",
  "DATABASE_URL_FILE",
];

/** The control plane's environment: what the operator set, and what the launcher knows. */
export function controlPlaneEnvironment(base: Environment, options: ControlPlaneOptions): Environment {
  const { settings } = options;
  return {
    ...without(base, (name) => name.startsWith("SKERRY_AGENT_") || otherPrograms.includes(name)),
    DATABASE_URL: options.databaseUrl,
    PORT: String(settings.port),
    SKERRY_HOME: settings.home,
    SKERRY_LISTEN: settings.listen,
    SKERRY_GATEWAY_LISTEN: settings.gatewayListen,
    SKERRY_GATEWAY_PORT: String(settings.gatewayPort),
    SKERRY_MICRO_DIR: options.microDirectory,
    SKERRY_IMAGE_OVERRIDES_FILE: options.imageOverridesFile,
    SKERRY_SECRET_KEY_FILE: base["SKERRY_SECRET_KEY_FILE"] ?? path.join(settings.home, "secret.key"),
    SKERRY_FIRST_USERNAME: options.username,
    SKERRY_FIRST_PASSWORD_FILE: options.passwordFile,
  };
}

export interface AgentOptions {
  readonly host: TopologyHost;
  readonly gateway: string;
  readonly dataDirectory: string;
  readonly labelsFile: string;
  /** The guest that proves acceleration by booting. */
  readonly microDirectory: string;
  /** Whether containers may be given the machine's GPUs: one agent may, for those of several would share them. */
  readonly gpus: boolean;
  /** File with the token to join with; undefined once the host has joined. */
  readonly tokenFile: string | undefined;
}

/** An agent's environment; the control plane's settings and secrets are none of its business. */
export function agentEnvironment(base: Environment, options: AgentOptions): Environment {
  const foreign = (name: string) =>
    (name.startsWith("SKERRY_") && !name.startsWith("SKERRY_AGENT_")) ||
    ["PORT", "DATABASE_URL", "DATABASE_URL_FILE"].includes(name);
  return {
    ...without(base, foreign),
    SKERRY_AGENT_DATA: options.dataDirectory,
    SKERRY_AGENT_GATEWAY: options.gateway,
    SKERRY_AGENT_NAME: options.host.name,
    SKERRY_AGENT_LABELS_FILE: options.labelsFile,
    SKERRY_AGENT_DRIVER: options.host.driver,
    SKERRY_AGENT_SHARE: String(options.host.share),
    SKERRY_AGENT_LISTEN_HOST: "127.0.0.1",
    SKERRY_AGENT_LISTEN_PORT: "0",
    SKERRY_AGENT_STOP_MACHINES: "true",
    SKERRY_AGENT_PROBE_GUEST: options.microDirectory,
    ...(!options.gpus && { SKERRY_AGENT_CDI_FOLDERS: "" }),
    ...(options.tokenFile !== undefined && { SKERRY_AGENT_TOKEN_FILE: options.tokenFile }),
  };
}

function without(env: Environment, drop: (name: string) => boolean): Environment {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !drop(name)));
}
