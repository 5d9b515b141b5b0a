/** `skerry top` and `skerry advice`: the fleet as a whole. */
import { Command } from "commander";
import type { HostUsage, Relocation } from "../../fleet.ts";
import type { Column } from "../output.ts";
import type { Run } from "../session.ts";
import { formatSize, parseInteger } from "../units.ts";
import { hostNames } from "./host-names.ts";
import type { HostNames } from "./vm-view.ts";

/** Both commands. */
export function fleetCommands(run: Run): readonly Command[] {
  const top = new Command("top")
    .description("show how full hosts are and what that costs, the fullest first")
    .option("--limit <count>", "how many (default: 20)", parseInteger(1, 10_000))
    .action(
      run(async (session, { limit = 20 }: { limit?: number }) => {
        const { fleet } = await session.cloud();
        const { items, total } = await fleet.usage({ limit, signal: session.signal });
        session.out.list(items, usageColumns);
        if (session.out.format === "table") session.note(summaryOf(items, total));
      }),
    );
  const advice = new Command("advice").description("tell which moves would save money or distance").action(
    run(async (session) => {
      const { fleet } = await session.cloud();
      const moves = await fleet.advice({ signal: session.signal });
      const names = await hostNames(session);
      if (moves.length === 0 && session.out.format === "table") {
        session.note("Every machine stands where it is best off, or near enough.");
      } else session.out.list(moves, adviceColumns(names));
    }),
  );
  return [top, advice];
}

function summaryOf(items: readonly HostUsage[], total: number): string {
  const costs = new Map<string, number>();
  for (const { cost } of items)
    if (cost) costs.set(cost.currency, (costs.get(cost.currency) ?? 0) + cost.amount);
  const sums = [...costs].map(([currency, amount]) => `${amount.toFixed(2)} ${currency}/h`).join(" + ");
  const hosts = `${String(total)} ${total === 1 ? "host" : "hosts"}`;
  const shown = items.length < total ? `${String(items.length)} of ${hosts}` : hosts;
  return sums === "" ? shown : `${shown}: ${sums}`;
}

const share = (used: number, capacity: number): string =>
  capacity > 0 ? `${String(Math.round((100 * used) / capacity))} %` : "";

const usageColumns: readonly Column<HostUsage>[] = [
  { title: "HOST", value: (r) => r.name },
  {
    title: "STATE",
    value: (r) => (r.online ? (r.cordoned ? "cordoned" : "online") : "offline"),
    phase: true,
  },
  { title: "SITE", value: (r) => `${r.provider}/${r.region}` },
  { title: "VMS", value: (r) => String(r.instances), align: "right" },
  { title: "CPUS", value: (r) => share(r.used.cpus, r.capacity.cpus), align: "right" },
  { title: "MEMORY", value: (r) => share(r.used.memory_bytes, r.capacity.memory_bytes), align: "right" },
  { title: "DISK", value: (r) => share(r.used.disk_bytes, r.capacity.disk_bytes), align: "right" },
  {
    title: "FREE MEMORY",
    value: (r) => formatSize(Math.max(0, r.capacity.memory_bytes - r.used.memory_bytes)),
    align: "right",
  },
  {
    title: "COST/H",
    value: (r) => (r.cost ? `${r.cost.amount.toFixed(3)} ${r.cost.currency}` : ""),
    align: "right",
  },
];

const adviceColumns = (names: HostNames): readonly Column<Relocation>[] => [
  { title: "VM", value: (r) => r.name },
  { title: "FROM", value: (r) => names.get(r.from) ?? r.from },
  { title: "TO", value: (r) => names.get(r.to) ?? r.to },
  {
    title: "SAVES/H",
    value: (r) => (r.saves_per_hour === null ? "" : `${r.saves_per_hour.toFixed(4)} ${r.currency ?? ""}`),
    align: "right",
  },
  { title: "WHY", value: (r) => r.reasons.join("; ") },
  { title: "MOVES", value: (r) => (r.automatic ? "by itself" : "when told to") },
];
