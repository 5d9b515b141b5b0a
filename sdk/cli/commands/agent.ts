/** `skerry agent`: making this machine a host. */
import { Command, Option } from "commander";
import type { Run } from "../session.ts";
import { parseDuration } from "../units.ts";
import { installAgent, uninstallAgent } from "./agent-install.ts";
import { joinCloud, runAgent } from "./agent-join.ts";
import { showAgent } from "./agent-status.ts";
import { defaultAgentHome } from "../agent-home.ts";

const data = () =>
  new Option("--data <folder>", "where the agent keeps its state")
    .default(defaultAgentHome)
    .env("SKERRY_AGENT_DATA");

/** All about this machine's agent. */
export function agentCommand(run: Run): Command {
  const agent = new Command("agent").description("make this machine a host");
  agent
    .command("join")
    .description("join a cloud with a token of `skerry host token`")
    .usage("--gateway <host:port> --token <token> [options]")
    .requiredOption("--gateway <host:port>", "where the cloud lets agents in")
    .addOption(data())
    .option("--name <name>", "name of the host (default: its host name)")
    .option("--provider <name>", "whose machine it is", "local")
    .option("--region <name>", "region it stands in", "local")
    .option("--zone <name>", "zone it stands in", "")
    .addOption(
      new Option("--driver <name>", "what runs the machines").choices(["qemu", "fake"]).default("qemu"),
    )
    .option("--share <fraction>", "how much of the machine the cloud may use, such as 0.5", "1")
    .option("--listen <host:port>", "where other agents reach this one", "0.0.0.0:7443")
    .option("--timeout <duration>", "how long joining may take (default: 3m)", parseDuration)
    .action(run(joinCloud));
  agent
    .command("run")
    .description("run the agent in the foreground, with the settings of `agent join`")
    .addOption(data())
    .action(run(runAgent));
  agent
    .command("status")
    .description("show what this machine's agent is about")
    .addOption(data())
    .action(run(showAgent));
  agent
    .command("install")
    .description("run the agent as a systemd service, now and after every boot")
    .addOption(data())
    .option("--dry-run", "print the unit and change nothing")
    .action(run(installAgent));
  agent
    .command("uninstall")
    .description("stop the service and take it away; drain the host before, or its machines run on")
    .addOption(data())
    .action(run(uninstallAgent));
  return agent;
}
