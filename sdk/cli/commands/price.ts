/** `skerry price`: what providers take. */
import { Command } from "commander";
import type { Price } from "../../kinds/generated.ts";
import type { Column } from "../output.ts";
import { compareSheets, parsePriceSheet } from "../price-sheet.ts";
import type { Run, Session } from "../session.ts";
import { readText } from "../text-file.ts";

/** The price sheet. */
export function priceCommand(run: Run): Command {
  const price = new Command("price").alias("prices").description("what providers take, by region");
  price.command("ls").alias("list").description("list the price sheet").action(run(list));
  price
    .command("import")
    .description("make the price sheet what a YAML file says; lines that have not changed are left alone")
    .argument("<file>", "with `currency` and the list `prices`")
    .option("--prune", "delete the lines that the file does not have")
    .action(run(importSheet));
  return price;
}

async function list(session: Session): Promise<void> {
  session.out.list(await readSheet(session), columns);
}

async function importSheet(session: Session, file: string, { prune = false }: { prune?: boolean }) {
  const { signal } = session;
  const wanted = parsePriceSheet(await readText(file));
  const { prices } = await session.cloud();
  const { create, update, others } = compareSheets(await readSheet(session), wanted);
  for (const spec of create) await prices.create({ name: nameOf(spec), spec }, { signal });
  for (const { id, spec } of update) await prices.update(id, { spec }, { signal });
  if (prune) for (const { id } of others) await prices.delete(id, { signal });
  const done = {
    created: create.length,
    updated: update.length,
    unchanged: wanted.length - create.length - update.length,
    [prune ? "deleted" : "not_in_file"]: others.length,
  };
  const told = Object.entries(done).map(([what, count]) => `${String(count)} ${what.replaceAll("_", " ")}`);
  session.out.done(`Prices: ${told.join(", ")}.`, done);
}

async function readSheet(session: Session): Promise<Price[]> {
  const { prices } = await session.cloud();
  return prices.list({}, { signal: session.signal, pageSize: 500 }).all();
}

const nameOf = ({ provider, region }: Price["spec"]): string =>
  region === null ? provider : `${provider}/${region}`;

const columns: readonly Column<Price>[] = [
  { title: "PROVIDER", value: (r) => r.spec.provider },
  { title: "REGION", value: (r) => r.spec.region ?? "(others)" },
  { title: "CPU/H", value: (r) => String(r.spec.cpu_per_hour), align: "right" },
  { title: "MEMORY GIB/H", value: (r) => String(r.spec.memory_per_gb), align: "right" },
  { title: "DISK GIB/MONTH", value: (r) => String(r.spec.disk_gib_per_month), align: "right" },
  { title: "OUT/GIB", value: (r) => String(r.spec.egress_per_gib), align: "right" },
  { title: "CURRENCY", value: (r) => r.spec.currency },
];
