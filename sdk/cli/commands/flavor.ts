/** `skerry flavor`: sizes of machines that have a name and a price. */
import { Command } from "commander";
import type { Flavor } from "../../kinds/generated.ts";
import type { Column, Field } from "../output.ts";
import type { Run, Session } from "../session.ts";
import { formatSize, parseInteger, parseSize } from "../units.ts";

interface CreateOptions {
  readonly cpus: number;
  readonly memory: number;
  readonly disk: number;
  readonly gpus?: number;
  readonly price?: string;
}

/** All about flavors. */
export function flavorCommand(run: Run): Command {
  const flavor = new Command("flavor").description("sizes of machines that have a name");
  flavor.command("ls").alias("list").description("list flavors, the smallest first").action(run(list));
  flavor
    .command("show")
    .description("show a flavor")
    .argument("<flavor>", "name or id")
    .action(
      run(async (session, name: string) => {
        const { flavors } = await session.cloud();
        const found = await flavors.find(name, { signal: session.signal });
        session.out.show(found, fieldsOf(found));
      }),
    );
  flavor
    .command("create")
    .description("make a flavor of the present project; one of the root project is everybody's")
    .argument("<name>")
    .requiredOption("--cpus <count>", "virtual CPUs", parseInteger(1, 512))
    .requiredOption("--memory <size>", "memory, such as 512m or 2g", parseSize)
    .requiredOption("--disk <size>", "root disk, such as 20g", parseSize)
    .option("--gpus <count>", "GPUs", parseInteger(0, 64))
    .option("--price <usd>", "US dollars per hour, such as 0.0104")
    .action(run(create));
  flavor
    .command("rm")
    .description("delete flavors; instances that have one keep their size")
    .argument("<flavor...>", "names or ids")
    .action(run(remove));
  return flavor;
}

async function list(session: Session): Promise<void> {
  const { flavors } = await session.cloud();
  const all = await flavors.list({}, { signal: session.signal, pageSize: 500 }).all();
  session.out.list(all.sort(bySize), columns);
}

async function create(session: Session, name: string, options: CreateOptions): Promise<void> {
  const { flavors } = await session.cloud();
  const { cpus, memory, disk, gpus, price } = options;
  const spec = {
    vcpus: cpus,
    memory_bytes: memory,
    disk_bytes: disk,
    ...(gpus !== undefined && { gpu_count: gpus }),
    ...(price !== undefined && { hourly_cost_usd: price }),
  };
  const made = await flavors.create({ name, spec }, { signal: session.signal });
  session.out.done(`Made flavor ${name} (${made.id}).`, made);
}

async function remove(session: Session, names: readonly string[]): Promise<void> {
  const { flavors } = await session.cloud();
  const found: Flavor[] = [];
  for (const name of names) found.push(await flavors.find(name, { signal: session.signal }));
  for (const { id } of found) await flavors.delete(id, { signal: session.signal });
  const removed = found.map(({ id, name }) => ({ id, name }));
  session.out.done(removed.map(({ name }) => `Deleted flavor ${name}.`).join("\n"), removed);
}

const bySize = (a: Flavor, b: Flavor): number =>
  a.spec.vcpus - b.spec.vcpus ||
  a.spec.memory_bytes - b.spec.memory_bytes ||
  a.name.localeCompare(b.name, "en");

const columns: readonly Column<Flavor>[] = [
  { title: "NAME", value: (r) => r.name },
  { title: "ID", value: (r) => r.id },
  { title: "PHASE", value: (r) => r.phase, phase: true },
  { title: "CPUS", value: (r) => String(r.spec.vcpus), align: "right" },
  { title: "MEMORY", value: (r) => formatSize(r.spec.memory_bytes), align: "right" },
  { title: "DISK", value: (r) => formatSize(r.spec.disk_bytes), align: "right" },
  { title: "GPUS", value: (r) => (r.spec.gpu_count > 0 ? String(r.spec.gpu_count) : ""), align: "right" },
  { title: "USD/H", value: (r) => r.spec.hourly_cost_usd, align: "right" },
];

function fieldsOf(r: Flavor): readonly Field[] {
  return [
    ["name", r.name],
    ["id", r.id],
    ["phase", r.phase],
    ["cpus", String(r.spec.vcpus)],
    ["memory", formatSize(r.spec.memory_bytes)],
    ["disk", formatSize(r.spec.disk_bytes)],
    ["gpus", r.spec.gpu_count > 0 ? String(r.spec.gpu_count) : ""],
    ["price", `${r.spec.hourly_cost_usd} USD per hour`],
    ["aliases", r.spec.aliases.join(", ")],
    ["project", r.project],
  ];
}
