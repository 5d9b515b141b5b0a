/** `skerry vm create`. */
import { readFile } from "node:fs/promises";
import { Command, InvalidArgumentError, Option } from "commander";
import { Fault } from "#kernel/fault.ts";
import type { InstanceInput } from "../../kinds/generated.ts";
import type { Run, Session } from "../session.ts";
import { collect, collectPair, parseDuration, parseInteger, parseSize } from "../units.ts";
import { withWaiting, type WaitFlags } from "../waiting.ts";
import { settleInstance } from "./vm-lifecycle.ts";

interface CreateOptions extends WaitFlags {
  readonly image: string;
  readonly cpus?: number;
  readonly memory?: number;
  readonly disk?: number;
  readonly provider?: string;
  readonly region?: string;
  readonly network?: string;
  readonly hostname?: string;
  readonly sshKey?: readonly string[];
  readonly userData?: string;
  readonly forward?: readonly Forward[];
  readonly label?: Readonly<Record<string, string>>;
  readonly restartPolicy?: "always" | "on-failure" | "never";
  readonly stopTimeout?: number;
  readonly stopped?: true;
}

type Forward = NonNullable<InstanceInput["forwards"]>[number];

/** The command that makes a machine. */
export function createCommand(run: Run): Command {
  const command = new Command("create")
    .description("create a virtual machine and start it")
    .argument("<name>", "its name")
    .requiredOption("--image <image>", "id, name or alias of an image, such as micro or ubuntu-22.04")
    .option("--cpus <count>", "virtual CPUs", parseInteger(1, 512))
    .option("--memory <size>", "memory, such as 512m or 2g", parseSize)
    .option("--disk <size>", "root disk, such as 20g", parseSize)
    .option("--provider <name>", "only hosts of this provider")
    .option("--region <name>", "only hosts in this region")
    .option("--network <name>", "network to join")
    .option("--hostname <name>", "host name in the guest")
    .option("--ssh-key <file|key>", "public key to let in; repeatable", collect)
    .option("--user-data <file>", "script or cloud-config that runs at first boot")
    .option(
      "--forward <[host:]guest[/udp]>",
      "port of the host that leads to one of the guest; repeatable",
      collectForward,
    )
    .option("--label <key=value>", "label; repeatable", collectPair)
    .addOption(
      new Option("--restart-policy <policy>", "when its host starts it again").choices([
        "always",
        "on-failure",
        "never",
      ]),
    )
    .option("--stop-timeout <duration>", "how long the guest may take to shut down", parseDuration)
    .option("--stopped", "create it without starting it");
  return withWaiting(command, "it runs").action(run(create));
}

async function create(session: Session, name: string, options: CreateOptions): Promise<void> {
  const cloud = await session.cloud();
  const spec = await toSpec(options);
  const body = { name, spec, ...(options.label && { labels: options.label }) };
  const instance = await cloud.instances.create(body, { signal: session.signal });
  await settleInstance(session, instance, options.stopped ? "stopped" : "running", options);
}

async function toSpec(options: CreateOptions): Promise<InstanceInput> {
  const { image, cpus, memory, disk, provider, region, network, hostname, forward, restartPolicy } = options;
  const keys = await Promise.all((options.sshKey ?? []).map(readKey));
  const userData = options.userData === undefined ? undefined : await readText(options.userData);
  return {
    image,
    ...(cpus !== undefined && { cpus }),
    ...(memory !== undefined && { memory_bytes: memory }),
    ...(disk !== undefined && { disk_bytes: disk }),
    ...(provider !== undefined && { provider }),
    ...(region !== undefined && { region }),
    ...(network !== undefined && { network }),
    ...(hostname !== undefined && { hostname }),
    ...(keys.length > 0 && { ssh_keys: keys }),
    ...(userData !== undefined && { user_data: userData }),
    ...(forward && { forwards: forward }),
    ...(restartPolicy && { restart_policy: restartPolicy }),
    ...(options.stopTimeout !== undefined && {
      stop_timeout_seconds: Math.round(options.stopTimeout / 1000),
    }),
    ...(options.stopped && { power: "off" as const }),
  };
}

/** A key is one line with a type and a blank; anything else is the name of a file with one. */
const readKey = async (text: string): Promise<string> =>
  /^[a-z0-9@.-]+ \S/.test(text) ? text : (await readText(text)).trim();

async function readText(path: string): Promise<string> {
  return readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    throw new Fault("invalid", `cannot read ${path}: ${error.code ?? error.message}`, {
      reason: "FILE_UNREADABLE",
      cause: error,
    });
  });
}

/** Reads `[host:]guest[/udp]`; without a host port, the host chooses one. */
function collectForward(text: string, previous: readonly Forward[] = []): readonly Forward[] {
  const [, host, guest, protocol = "tcp"] = /^(?:(\d{1,5}):)?(\d{1,5})(?:\/(tcp|udp))?$/.exec(text) ?? [];
  const ports = { guest_port: Number(guest), host_port: Number(host ?? 0) };
  if (!(ports.guest_port >= 1) || ports.guest_port > 65535 || ports.host_port > 65535) {
    throw new InvalidArgumentError("It must be [host port:]guest port[/udp], such as 8080:80.");
  }
  return [...previous, { protocol: protocol === "udp" ? "udp" : "tcp", ...ports }];
}
