/** `skerry vm create`. */
import { Command, InvalidArgumentError, Option } from "commander";
import type { InstanceInput } from "../../kinds/generated.ts";
import type { Run, Session } from "../session.ts";
import { readKey, readText } from "../text-file.ts";
import { collect, collectPair, parseDuration, parseInteger, parseSize } from "../units.ts";
import { withWaiting, type WaitFlags } from "../waiting.ts";
import { settleInstance } from "./vm-lifecycle.ts";

interface CreateOptions extends WaitFlags {
  readonly image: string;
  readonly flavor?: string;
  readonly keyPair?: string;
  readonly cpus?: number;
  readonly memory?: number;
  readonly disk?: number;
  readonly provider?: string;
  readonly region?: string;
  readonly near?: { readonly latitude: number; readonly longitude: number };
  readonly country?: readonly string[];
  readonly maxPrice?: { readonly amount: number; readonly currency: string };
  readonly gpu?: { readonly count: number; readonly model: string | null };
  readonly tolerate?: readonly string[];
  readonly group?: readonly Group[];
  readonly network?: string;
  readonly hostname?: string;
  readonly sshKey?: readonly string[];
  readonly userData?: string;
  readonly forward?: readonly Forward[];
  readonly label?: Readonly<Record<string, string>>;
  readonly onHostLoss?: "wait" | "restart_elsewhere";
  readonly relocation?: "advise" | "automatic";
  readonly restartPolicy?: "always" | "on-failure" | "never";
  readonly stopTimeout?: number;
  readonly stopped?: true;
}

type Forward = NonNullable<InstanceInput["forwards"]>[number];
type Constraints = NonNullable<InstanceInput["constraints"]>;
type Group = NonNullable<Constraints["groups"]>[number];

const groupRules = ["same-host", "different-hosts", "spread-zones"] as const;

/** The command that makes a machine. */
export function createCommand(run: Run): Command {
  const command = new Command("create")
    .description("create a virtual machine and start it")
    .argument("<name>", "its name")
    .requiredOption("--image <image>", "id, name or alias of an image, such as micro or ubuntu-22.04")
    .option("--flavor <flavor>", "size that has a name; --cpus, --memory and --disk say it otherwise")
    .option("--cpus <count>", "virtual CPUs", parseInteger(1, 512))
    .option("--memory <size>", "memory, such as 512m or 2g", parseSize)
    .option("--disk <size>", "root disk, such as 20g", parseSize)
    .option("--provider <name>", "only hosts of this provider")
    .option("--region <name>", "only hosts in this region")
    .option("--near <latitude,longitude>", "where its users are, such as 52.5,13.4", parseNear)
    .option("--country <country>", "only hosts in this country; repeatable", collect)
    .option("--max-price <amount[currency]>", "most that it may cost per hour, such as 0.05EUR", parsePrice)
    .option("--gpu <count[:model]>", "GPUs, such as 1 or 2:A100", parseGpu)
    .option("--tolerate <taint>", "put up with hosts that are kept for this; repeatable", collect)
    .option("--group <name:rule>", `group with the rule ${groupRules.join(", ")}; repeatable`, collectGroup)
    .option("--network <name>", "network to join")
    .option("--hostname <name>", "host name in the guest")
    .option("--key-pair <keypair>", "key pair to let in, by name")
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
    .addOption(
      new Option("--on-host-loss <policy>", "when its host is lost (default: wait for it)").choices([
        "wait",
        "restart_elsewhere",
      ]),
    )
    .addOption(
      new Option(
        "--relocation <policy>",
        "where it would be much cheaper or nearer (default: advise)",
      ).choices(["advise", "automatic"]),
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
  const {
    image,
    flavor,
    keyPair,
    cpus,
    memory,
    disk,
    provider,
    region,
    network,
    hostname,
    forward,
    restartPolicy,
  } = options;
  const keys = await Promise.all((options.sshKey ?? []).map(readKey));
  const userData = options.userData === undefined ? undefined : await readText(options.userData);
  const constraints = toConstraints(options);
  return {
    image,
    ...(flavor !== undefined && { flavor }),
    ...(keyPair !== undefined && { key_pair: keyPair }),
    ...(constraints && { constraints }),
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
    ...(options.onHostLoss && { on_host_loss: options.onHostLoss }),
    ...(options.relocation && { relocation: options.relocation }),
    ...(restartPolicy && { restart_policy: restartPolicy }),
    ...(options.stopTimeout !== undefined && {
      stop_timeout_seconds: Math.round(options.stopTimeout / 1000),
    }),
    ...(options.stopped && { power: "off" as const }),
  };
}

/** Undefined when nothing is asked of the place. */
function toConstraints(options: CreateOptions): Constraints | undefined {
  const { near, country, maxPrice, gpu, tolerate, group } = options;
  const constraints: Constraints = {
    ...(near && { near }),
    ...(country && { countries: [...country] }),
    ...(maxPrice && { max_price: maxPrice }),
    ...(gpu && { gpu }),
    ...(tolerate && { tolerations: [...tolerate] }),
    ...(group && { groups: [...group] }),
  };
  return Object.keys(constraints).length > 0 ? constraints : undefined;
}

function parseNear(text: string) {
  const [, latitude, longitude] = /^(-?\d+(?:\.\d+)?),\s*(-?\d+(?:\.\d+)?)$/.exec(text) ?? [];
  if (latitude === undefined)
    throw new InvalidArgumentError("It must be latitude,longitude, such as 52.5,13.4.");
  return { latitude: Number(latitude), longitude: Number(longitude) };
}

function parsePrice(text: string) {
  const [, amount, currency = "USD"] = /^(\d+(?:\.\d+)?)\s*([A-Z]{3})?$/.exec(text) ?? [];
  if (amount === undefined) throw new InvalidArgumentError("It must be an amount, such as 0.05 or 0.05EUR.");
  return { amount: Number(amount), currency };
}

function parseGpu(text: string) {
  const [, count, model = null] = /^(\d{1,2})(?::(.+))?$/.exec(text) ?? [];
  if (count === undefined) throw new InvalidArgumentError("It must be a count, such as 1 or 2:A100.");
  return { count: Number(count), model };
}

/** Reads `name:rule`. */
function collectGroup(text: string, previous: readonly Group[] = []): readonly Group[] {
  const end = text.lastIndexOf(":");
  const rule = groupRules.find((known) => known === text.slice(end + 1));
  if (end < 1 || !rule)
    throw new InvalidArgumentError(`It must be name:rule, with one of ${groupRules.join(", ")}.`);
  return [...previous, { name: text.slice(0, end), rule }];
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
