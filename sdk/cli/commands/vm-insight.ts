/** `skerry vm metrics` and `skerry vm placement`: what a machine uses, and why it is where it is. */
import { Command } from "commander";
import { stringify } from "yaml";
import type { MetricsPoint, MetricsSeries, PlacementReport } from "../../extras.ts";
import type { Run, Session } from "../session.ts";
import type { Column, Field } from "../output.ts";
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

/** The command that shows why the scheduler chose as it did. */
export function placementCommand(run: Run): Command {
  return new Command("placement")
    .description("show where a machine was placed and why")
    .argument("<vm>", "name or id")
    .action(
      run(async (session, name: string) => {
        const { instances } = await session.cloud();
        const { id } = await instances.find(name, { signal: session.signal });
        const report = await instances.placement(id, { signal: session.signal });
        session.out.show(report, placementFields(report));
      }),
    );
}

function placementFields(report: PlacementReport): readonly Field[] {
  const { host_id: hostId, provider, region, zone, explanation } = report;
  return [
    ["phase", report.phase],
    ["host", hostId ?? "none yet"],
    ["place", [provider, region, zone].filter(Boolean).join(" / ")],
    ["because", explanation === undefined ? "" : stringify(explanation).trimEnd()],
  ];
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
