/** Following a migration to its end: one line that is rewritten on a terminal, plain lines elsewhere. */
import { Fault } from "#kernel/fault.ts";
import type { Migration } from "../kinds/generated.ts";
import type { Session } from "./session.ts";
import { formatSize, formatTime } from "./units.ts";
import type { Stage } from "./waiting.ts";

const ended = ["complete", "failed", "cancelled"] as const;
const barWidth = 20;
const defaultLimitMs = 24 * 3600_000;

/** Shows how it goes until it has ended, however it does, and gives it as it is then. */
export async function followMigration(
  session: Session,
  { id, name }: Migration,
  limitMs = defaultLimitMs,
): Promise<Migration> {
  const { migrations } = await session.cloud();
  const live = session.terminal.stderr.isTTY === true;
  using progress = session.progress();
  const last = await migrations.waitFor(id, {
    phases: ended,
    signal: session.signal,
    timeoutMs: limitMs,
    onChange: (each) => {
      const { stage, detail } = live ? describeLive(each) : describePlain(each);
      progress.update(`${name}: ${stage}`, detail);
    },
    onReconnect: ({ fault }) => progress.update(`${name}: ${fault.message}; trying again`),
  });
  if (!last) throw new Fault("notFound", `${id} is gone`, { reason: "MIGRATION_GONE" });
  return last;
}

/** Throws what ended it, unless it is complete. */
export function refuseUnmoved({ id, name, phase, status }: Migration): void {
  if (phase === "complete") return;
  const { reason, message } = status?.error ?? {
    reason: phase === "cancelled" ? "CANCELLED" : "MOVE_FAILED",
    message: phase === "cancelled" ? "it was called off" : `it is ${phase}`,
  };
  throw new Fault("conflict", `${name} has not moved: ${message}`, { reason, detail: { id } });
}

/** All that is known of it, for a line that is rewritten. */
export function describeLive(migration: Migration): Stage {
  const { phase, status } = migration;
  const progress = status?.progress;
  if (status?.waiting_for) return { stage: `${phase}, waiting: ${status.waiting_for}` };
  if (!progress || progress.bytes_total === 0 || status.ended_at) return { stage: phase };
  const done = shareOf(progress);
  const filled = Math.round(done * barWidth);
  const { dirty_rate: dirty, predicted_downtime_ms: predicted } = progress;
  const bar = `${"#".repeat(filled)}${"-".repeat(barWidth - filled)}`;
  return {
    stage: `${phase} [${bar}] ${percent(done)} of ${formatSize(progress.bytes_total)}`,
    detail: [
      `sent ${formatSize(progress.bytes_sent)} at ${formatSize(progress.throughput)}/s`,
      // Nothing is known of these before the first round has ended.
      ...(dirty > 0 ? [`guest writes ${formatSize(dirty)}/s`] : []),
      ...(predicted > 0 ? [`would stop for ${formatTime(predicted)}`] : []),
    ].join(", "),
  };
}

/** The same for a log: a line for each phase, and for each quarter of the way. */
export function describePlain(migration: Migration): Stage {
  const { phase, status } = migration;
  if (status?.waiting_for) return { stage: `${phase}, waiting: ${status.waiting_for}` };
  const progress = status?.progress;
  const quarter = progress ? Math.floor(shareOf(progress) * 4) / 4 : 0;
  if (!progress || quarter === 0 || quarter === 1 || status.ended_at) return { stage: phase };
  return { stage: `${phase}, ${percent(quarter)} of ${formatSize(progress.bytes_total)}` };
}

type Progress = NonNullable<NonNullable<Migration["status"]>["progress"]>;

const shareOf = ({ bytes_total, bytes_remaining }: Progress): number =>
  bytes_total > 0 ? Math.min(1, Math.max(0, 1 - bytes_remaining / bytes_total)) : 0;
const percent = (share: number): string => `${String(Math.floor(share * 100))} %`;
