/** `skerry workload`: containers near to where they are needed. */
import { Command, InvalidArgumentError, Option } from "commander";
import { Fault } from "#kernel/fault.ts";
import type { Workload, WorkloadInput } from "../../kinds/generated.ts";
import { hostNames } from "./host-names.ts";
import type { Run, Session } from "../session.ts";
import { collect, collectPair, parseInteger, parseSize } from "../units.ts";
import { awaitPhases, withWaiting, type WaitFlags } from "../waiting.ts";
import { describeWorkload, workloadColumns, workloadFields } from "./workload-view.ts";

/** All about workloads. */
export function workloadCommand(run: Run): Command {
  const workload = new Command("workload").description("containers near to where they are needed");
  workload
    .command("ls")
    .alias("list")
    .description("list workloads")
    .option("--type <type>", "only those of this type")
    .action(
      run(async (session, filters: { type?: string }) => {
        const { workloads } = await session.cloud();
        const found = await workloads.list(filters, { signal: session.signal, pageSize: 500 }).all();
        session.out.list(found, workloadColumns(await hostNames(session)));
      }),
    );
  workload
    .command("show")
    .description("show a workload")
    .argument("<workload>", "name or id")
    .action(
      run(async (session, name: string) => {
        const found = await find(session, name);
        session.out.show(found, workloadFields(found, await hostNames(session)));
      }),
    );
  workload.addCommand(createCommand(run));
  workload
    .command("logs")
    .description("show what a workload printed")
    .argument("<workload>", "name or id")
    .option("--lines <count>", "how many lines at most", parseInteger(1, 1000), 100)
    .action(
      run(async (session, name: string, options: { lines: number }) => {
        const { workloads } = await session.cloud();
        const { id } = await find(session, name);
        const lines = await workloads.readLog(id, options.lines, { signal: session.signal });
        session.out.list(lines, [
          { title: "TIME", value: ({ at }) => at },
          { title: "STREAM", value: ({ stream }) => stream },
          { title: "TEXT", value: ({ text }) => text },
        ]);
      }),
    );
  const restart = new Command("restart")
    .description("end a workload and start it again")
    .argument("<workload>", "name or id");
  workload.addCommand(
    withWaiting(restart, "it runs").action(
      run(async (session, name: string, options: WaitFlags) => {
        const { workloads } = await session.cloud();
        const changed = await workloads.restart((await find(session, name)).id, { signal: session.signal });
        await settle(session, changed, options);
      }),
    ),
  );
  const rm = new Command("rm").description("delete workloads").argument("<workload...>", "names or ids");
  workload.addCommand(withWaiting(rm, "they are gone").action(run(removeWorkloads)));
  return workload;
}

interface CreateOptions extends WaitFlags {
  readonly image: string;
  readonly type?: string;
  readonly cpus?: number;
  readonly memory?: number;
  readonly gpus?: number;
  readonly near?: NonNullable<WorkloadInput["target_location"]>;
  readonly provider?: string;
  readonly region?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly publish?: readonly Port[];
  readonly healthCommand?: readonly string[];
  readonly restartPolicy?: "always" | "on-failure" | "never";
  readonly onDisconnect?: "keep" | "replace";
  readonly label?: Readonly<Record<string, string>>;
}

type Port = NonNullable<WorkloadInput["ports"]>[number];

function createCommand(run: Run): Command {
  const command = new Command("create")
    .description("run a container on the nearest host that has room")
    .argument("<name>", "its name")
    .argument("[command...]", "what to run in it, after --; without it, what the image says")
    .requiredOption("--image <image>", "an imported image, or a reference such as docker.io/library/nginx:1")
    .option("--type <type>", "what it is for; a job or batch ends by itself")
    .option("--cpus <count>", "CPUs that it may use", parseInteger(1, 512))
    .option("--memory <size>", "memory, such as 256m", parseSize)
    .option("--gpus <count>", "GPUs", parseInteger(0, 64))
    .option("--near <latitude,longitude>", "where it is needed", parsePlace)
    .option("--provider <name>", "only hosts of this provider")
    .option("--region <name>", "only hosts in this region")
    .option("--env <key=value>", "variable; repeatable", collectPair)
    .option(
      "--publish <[[address:]host:]container[/udp]>",
      "port of the host that leads into it; repeatable",
      collectPort,
    )
    .option("--health-command <word>", "a word of its health check; repeatable", collect)
    .addOption(
      new Option("--restart-policy <policy>", "what follows its end").choices([
        "always",
        "on-failure",
        "never",
      ]),
    )
    .addOption(
      new Option("--on-disconnect <policy>", "when its host is cut off for long").choices([
        "keep",
        "replace",
      ]),
    )
    .option("--label <key=value>", "label; repeatable", collectPair);
  return withWaiting(command, "it runs").action(run(create));
}

async function create(
  session: Session,
  name: string,
  command: readonly string[],
  options: CreateOptions,
): Promise<void> {
  const { workloads } = await session.cloud();
  const { label, near, env, publish, healthCommand, restartPolicy, onDisconnect, memory } = options;
  const { image, type, cpus, gpus, provider, region } = options;
  const spec: WorkloadInput = {
    image,
    command,
    ...(type !== undefined && { type }),
    ...(cpus !== undefined && { cpus }),
    ...(memory !== undefined && { memory_bytes: memory }),
    ...(gpus !== undefined && { gpus }),
    ...(provider !== undefined && { provider }),
    ...(region !== undefined && { region }),
    ...(near && { target_location: near }),
    ...(env && { environment: env }),
    ...(publish && { ports: publish }),
    ...(healthCommand && { health: { command: healthCommand } }),
    ...(restartPolicy && { restart_policy: restartPolicy }),
    ...(onDisconnect && { on_disconnect: onDisconnect }),
  };
  const body = { name, spec, ...(label && { labels: label }) };
  await settle(session, await workloads.create(body, { signal: session.signal }), options);
}

async function find(session: Session, name: string): Promise<Workload> {
  const { workloads } = await session.cloud();
  return workloads.find(name, { signal: session.signal });
}

async function settle(session: Session, workload: Workload, options: WaitFlags): Promise<void> {
  const { workloads } = await session.cloud();
  const settled = options.wait
    ? await awaitPhases(session, workloads, workload, ["running"], { ...options, describe: describeWorkload })
    : workload;
  if (!settled) throw new Fault("conflict", `${workload.name} was deleted meanwhile`, { reason: "DELETED" });
  session.out.done(`${settled.name} (${settled.id}) is ${settled.phase}.`, settled);
}

async function removeWorkloads(
  session: Session,
  names: readonly string[],
  options: WaitFlags,
): Promise<void> {
  const { workloads } = await session.cloud();
  // All are looked up before the first is deleted: a mistyped name must not leave half of it done.
  const found: Workload[] = [];
  for (const name of names) found.push(await find(session, name));
  const removed: { id: string; name: string; gone: boolean }[] = [];
  for (const { id, name } of found) {
    let left = await workloads.delete(id, { signal: session.signal });
    if (left && options.wait) {
      left = await awaitPhases(session, workloads, left, ["deleted"], {
        ...options,
        describe: describeWorkload,
      });
    }
    removed.push({ id, name, gone: left === undefined || left.phase === "deleted" });
  }
  const sentences = removed.map(({ name, gone }) => `${name} is ${gone ? "gone" : "being deleted"}.`);
  session.out.done(sentences.join("\n"), removed);
}

function parsePlace(text: string): NonNullable<WorkloadInput["target_location"]> {
  const [latitude = NaN, longitude = NaN, ...rest] = text.split(",").map(Number);
  if (!(Math.abs(latitude) <= 90) || !(Math.abs(longitude) <= 180) || rest.length > 0) {
    throw new InvalidArgumentError("It must be latitude,longitude, such as 40.7,-74.");
  }
  return { latitude, longitude };
}

/** Reads `[[address:]host:]container[/udp]`; without a host port, the host chooses one. */
function collectPort(text: string, previous: readonly Port[] = []): readonly Port[] {
  const [, address, host, container, protocol = "tcp"] =
    /^(?:(?:(\d[\d.]+):)?(\d{1,5}):)?(\d{1,5})(?:\/(tcp|udp))?$/.exec(text) ?? [];
  const ports = { container_port: Number(container), host_port: Number(host ?? 0) };
  if (!(ports.container_port >= 1) || ports.container_port > 65535 || ports.host_port > 65535) {
    throw new InvalidArgumentError("It must be [[address:]host port:]container port[/udp], such as 8080:80.");
  }
  return [
    ...previous,
    {
      protocol: protocol === "udp" ? "udp" : "tcp",
      ...ports,
      ...(address !== undefined && { host_address: address }),
    },
  ];
}
