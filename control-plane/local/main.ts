/** `npm start` and `npm run dev` after the set-up: a whole cloud in this terminal, until Ctrl-C. */
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { toFault, type Fault } from "#kernel/fault.ts";
import { createLogger } from "#kernel/log.ts";
import { LocalCloud } from "./cloud.ts";
import type { Environment } from "./child.ts";
import { lockHome } from "./home-lock.ts";
import { root } from "./programs.ts";
import { describeFault } from "./screen.ts";
import { readLocalSettings } from "./settings.ts";
import { builtInTopology, developmentTopology, loadTopology } from "./topology.ts";
import { watchSources } from "./watch.ts";

const tell = (line: string) => {
  process.stdout.write(`${line}\n`);
};

async function main(development: boolean): Promise<number> {
  const stopping = new AbortController();
  // The terminal and npm both pass Ctrl-C on, so a second one means nothing.
  const stopped = new Promise<void>((resolve) => {
    for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
      process.on(name, () => {
        stopping.abort();
        resolve();
      });
    }
  });
  const settings = readLocalSettings(process.env, root);
  const fallback = development ? developmentTopology : builtInTopology;
  const topology = await loadTopology(settings.topology, fallback);
  await mkdir(settings.home, { recursive: true, mode: 0o700 });
  await using _lock = await lockHome(settings.home);
  const log = createLogger({ level: "warn", write: (line) => process.stderr.write(`${line}\n`) });
  const env = process.env as Environment;
  try {
    await using cloud = await LocalCloud.start({
      settings,
      topology,
      env,
      tell,
      log,
      signal: stopping.signal,
    });
    greet(cloud, settings.home);
    if (development) void followSources(cloud, stopping.signal);
    const fault = await Promise.race([stopped, cloud.failed]);
    if (fault) return fail(fault);
  } catch (error) {
    if (!stopping.signal.aborted) throw error; // else: Ctrl-C came while starting
  }
  tell("Stopped. Nothing runs any more; the data stays in " + settings.home);
  return 0;
}

function greet({ credentials }: LocalCloud, home: string): void {
  tell(`
Skerry is ready.

  API       ${credentials.url}
  user      ${credentials.username}
  API key   ${credentials.api_key}
  (with the password in ${path.join(home, "credentials.json")})

Try, in another terminal:
${home === path.join(root, ".skerry") ? "" : `\n  export SKERRY_HOME=${home}`}
  npx skerry vm create web --image micro --wait
  npx skerry vm console web
  npx skerry vm rm web

Ctrl-C stops everything; the next start brings your machines back.`);
}

async function followSources(cloud: LocalCloud, signal: AbortSignal): Promise<void> {
  try {
    await watchSources(
      root,
      async (parts) => {
        tell(`Sources changed: restarting ${[...parts].join(" and ")} ...`);
        if (parts.has("control-plane")) await cloud.restartControlPlane();
        if (parts.has("agent")) await cloud.restartAgents();
      },
      signal,
    );
  } catch (error) {
    tell(`Changes are not followed any more: ${toFault(error).message}`);
  }
}

function fail(fault: Fault): number {
  process.stderr.write(`error: ${describeFault(fault)}\n`);
  return 1;
}

// Not `process.exit`: whatever still holds the loop open would be a leak worth seeing.
process.exitCode = await main(process.argv.includes("--dev")).catch((error: unknown) => fail(toFault(error)));
