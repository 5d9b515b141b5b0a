/** `skerry vm adopt`, and what there is to adopt. */
import { Command } from "commander";
import type { Host } from "../../kinds/generated.ts";
import type { Column } from "../output.ts";
import type { Run, Session } from "../session.ts";
import { formatSize } from "../units.ts";
import { withWaiting, type WaitFlags } from "../waiting.ts";
import { settleInstance } from "./vm-lifecycle.ts";

type ForeignMachine = NonNullable<NonNullable<Host["status"]>["foreign_machines"]>[number];

interface AdoptOptions extends WaitFlags {
  readonly as?: string;
}

/** The command that makes a machine of a host an instance. */
export function adoptCommand(run: Run): Command {
  const command = new Command("adopt")
    .description("take over a machine that a host had before, as it runs; see `skerry host machines`")
    .argument("<host>", "name or id")
    .argument("<machine>", "name or uuid that the host's hypervisor has for it")
    .option("--as <name>", "name of the new vm (default: the machine's own)");
  return withWaiting(command, "it has been taken over").action(run(adopt));
}

async function adopt(
  session: Session,
  hostName: string,
  machine: string,
  options: AdoptOptions,
): Promise<void> {
  const { hosts } = await session.cloud();
  const { signal } = session;
  const { id } = await hosts.find(hostName, { signal });
  const wish = { machine, ...(options.as !== undefined && { name: options.as }) };
  const instance = await hosts.adopt(id, wish, { signal });
  await settleInstance(session, instance, instance.spec.power === "on" ? "running" : "stopped", options);
}

/** The command that lists what else a host's hypervisor runs. */
export function machinesCommand(run: Run): Command {
  return new Command("machines")
    .description("list machines of a host that are not of this cloud, and whether they can be adopted")
    .argument("<host>", "name or id")
    .action(
      run(async (session, name: string) => {
        const { hosts } = await session.cloud();
        const { status } = await hosts.find(name, { signal: session.signal });
        session.out.list(status?.foreign_machines ?? [], columns);
        if (status && !status.foreign_machines) session.note(`The driver ${status.driver} cannot tell.`);
      }),
    );
}

const columns: readonly Column<ForeignMachine>[] = [
  { title: "NAME", value: (r) => r.name },
  { title: "UUID", value: (r) => r.uuid },
  { title: "STATE", value: (r) => r.state },
  { title: "CPUS", value: (r) => String(r.cpus), align: "right" },
  { title: "MEMORY", value: (r) => formatSize(r.memory_bytes), align: "right" },
  { title: "DISKS", value: (r) => r.disks.map((d) => `${d.target} ${formatSize(d.size_bytes)}`).join(", ") },
  { title: "ADOPTABLE", value: (r) => r.obstacles.map(({ message }) => message).join("; ") || "yes" },
];
