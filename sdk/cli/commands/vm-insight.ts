/** `skerry vm metrics` and `skerry explain`: what a machine uses, and why it is where it is. */
import { Command } from "commander";
import type { MetricsPoint, MetricsSeries, PlacementReport } from "../../extras.ts";
import type { Run, Session } from "../session.ts";
import type { Column } from "../output.ts";
import { formatSize, parseDuration } from "../units.ts";

/** The command that shows samples. */
export function metricsCommand(run: Run): Command {
  return new Command("metrics")
    .description("show what a machine has used")
    .argument("<vm>", "name or id")
    .option("--since <duration>", "how far back (default: 1h)", parseDuration)
    .action(
      run(async (session, name: string, { since = 3600_000 }: { since?: number }) => {
        const { instances } = await session.cloud();
        const { id } = await instances.find(name, { signal: session.signal });
        const range = { start: new Date(Date.now() - since), end: new Date() };
        const series = await instances.metrics(id, range, { signal: session.signal });
        printSeries(session, series);
      }),
    );
}

/** The command that tells why the scheduler chose as it did, under the name it is to have. */
export function explainCommand(run: Run, name: string): Command {
  return new Command(name)
    .description("tell why a machine stands where it stands, or why it stands nowhere yet")
    .argument("<vm>", "name or id")
    .action(
      run(async (session, wanted: string) => {
        const { instances } = await session.cloud();
        const found = await instances.find(wanted, { signal: session.signal });
        const report = await instances.placement(found.id, { signal: session.signal });
        session.out.done(tellPlacement(found.name, report), report);
      }),
    );
}

function tellPlacement(name: string, report: PlacementReport): string {
  const { host_id: hostId, host = hostId, provider, region, zone } = report;
  const place = [provider, region, zone].filter(Boolean).join(" / ");
  const where = hostId === null ? `${name} has no host yet.` : `${name} is on ${host ?? ""} (${place}).`;
  return [
    [where, report.verdict].filter(Boolean).join(" "),
    listed("Why", report.reasons),
    listed("Refused", report.refused),
    listed("What would change the answer", report.would_change),
  ]
    .filter((part) => part !== "")
    .join("\n\n");
}

function listed(title: string, lines: readonly string[] = []): string {
  return lines.length === 0 ? "" : [`${title}:`, ...lines.map((line) => `  - ${line}`)].join("\n");
}

/** The columns are what the points have: they follow the abilities of the host's driver. */
function printSeries(session: Session, series: MetricsSeries): void {
  if (session.out.format === "table" && series.points.length === 0) {
    session.note("no samples in that time");
    return;
  }
  const names = Object.keys(series.points[0] ?? {});
  const columns = names.map((name): Column<MetricsPoint> => ({
    title: name
      .replace(/_bytes$/, "")
      .replaceAll("_", " ")
      .toUpperCase(),
    value: (point) => formatSample(name, point[name] ?? ""),
    align: "right",
  }));
  session.out.table(series, series.points, columns);
}

function formatSample(name: string, value: string | number): string {
  if (typeof value === "string") return value;
  if (name.endsWith("_bytes")) return formatSize(value);
  if (name.endsWith("_usage")) return `${(100 * value).toFixed(1)} %`;
  return String(Number(value.toFixed(3)));
}
