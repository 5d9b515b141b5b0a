/** The agent as a program. Killing it is always safe; SIGTERM and SIGINT end it cleanly. */
import { Fault, toFault } from "#kernel/fault.ts";
import { batchLines, createLogger } from "#kernel/log.ts";
import { printSettings } from "#kernel/settings.ts";
import { keepYoungGenerationSmall } from "./heap.ts";
import { agentSettings, readAgentSettings } from "./settings.ts";

const write = batchLines(process.stdout);
const stop = new AbortController();

async function main(): Promise<void> {
  const settings = readAgentSettings(process.env);
  if (process.argv.includes("--print-settings")) {
    write(printSettings(agentSettings, settings));
    return;
  }
  for (const name of ["SIGTERM", "SIGINT"] as const) {
    process.on(name, () => {
      stop.abort(new Fault("unavailable", "the agent is stopping", { reason: "AGENT_STOPPING" }));
    });
  }
  // Loading is what would make it grow first.
  const small = keepYoungGenerationSmall();
  const { runAgent } = await import("./agent.ts");
  small[Symbol.dispose]();
  await runAgent(settings, createLogger({ level: settings.logLevel, write }), stop.signal);
}

main().then(
  () => process.exit(0),
  (thrown: unknown) => {
    if (stop.signal.aborted) process.exit(0);
    const { message, reason } = toFault(thrown);
    createLogger({ level: "error", write }).error("agent.failed", { fault: thrown });
    process.stderr.write(`error: ${message} (${reason})\n`);
    process.exit(1);
  },
);
