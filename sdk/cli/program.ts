/** The tree of commands; help and shell completion derive from it. */
import { Command, Option } from "commander";
import { agentCommand } from "./commands/agent.ts";
import { auditCommand } from "./commands/audit.ts";
import { accountCommands } from "./commands/account.ts";
import { authCommands } from "./commands/auth.ts";
import { completionCommand } from "./commands/completion.ts";
import { directoryCommands } from "./commands/directory.ts";
import { doctorCommand } from "./commands/doctor.ts";
import { fleetCommands } from "./commands/fleet.ts";
import { edgeCommand } from "./commands/edge.ts";
import { hostCommand } from "./commands/host.ts";
import { flavorCommand } from "./commands/flavor.ts";
import { keyPairCommand } from "./commands/keypair.ts";
import { profileCommand } from "./commands/profile.ts";
import { priceCommand } from "./commands/price.ts";
import { imageCommand } from "./commands/image.ts";
import { migrationCommand } from "./commands/migration.ts";
import { operationCommand } from "./commands/operation.ts";
import { explainCommand } from "./commands/vm-insight.ts";
import { vmCommand } from "./commands/vm.ts";
import { workloadCommand } from "./commands/workload.ts";
import { exitCodeHelp } from "./errors.ts";
import { formats } from "./output.ts";
import { runner, type Terminal } from "./session.ts";

/** Builds the `skerry` command for a terminal. */
export function createProgram(terminal: Terminal): Command {
  const run = runner(terminal);
  const program = new Command("skerry")
    .description("Virtual machines on hosts you own")
    .addOption(new Option("--url <url>", "the cloud's address").env("SKERRY_URL"))
    .addOption(new Option("--token <token>", "bearer token or API key (prefer SKERRY_TOKEN)"))
    .addOption(new Option("--profile <name>", "a login of `skerry login --profile`").env("SKERRY_PROFILE"))
    .addOption(
      new Option("-o, --output <format>", "how results are printed").choices(formats).default("table"),
    )
    .helpCommand("help [command]", "show the help of a command")
    .addHelpText("after", exitCodeHelp);
  for (const command of authCommands(run)) program.addCommand(command);
  for (const command of accountCommands(run)) program.addCommand(command);
  program.addCommand(profileCommand(run));
  program
    .addCommand(vmCommand(run))
    .addCommand(explainCommand(run, "explain"))
    .addCommand(migrationCommand(run))
    .addCommand(imageCommand(run))
    .addCommand(flavorCommand(run))
    .addCommand(keyPairCommand(run))
    .addCommand(priceCommand(run))
    .addCommand(workloadCommand(run))
    .addCommand(edgeCommand(run))
    .addCommand(hostCommand(run))
    .addCommand(operationCommand(run))
    .addCommand(agentCommand(run))
    .addCommand(doctorCommand(run));
  program.addCommand(completionCommand(run, program));
  for (const command of directoryCommands(run)) program.addCommand(command);
  program.addCommand(auditCommand(run));
  for (const command of fleetCommands(run)) program.addCommand(command);
  for (const command of commandsBelow(program)) {
    command.exitOverride();
    command.configureOutput({
      writeOut: (text) => terminal.stdout.write(text),
      writeErr: (text) => terminal.stderr.write(text),
    });
    command.showHelpAfterError("hint: `--help` shows how it is used");
  }
  return program;
}

function* commandsBelow(command: Command): Generator<Command> {
  yield command;
  for (const child of command.commands) yield* commandsBelow(child);
}
