/** How migrations are shown: in a list, one by one with their receipt, and before they begin. */
import type { MigrationPlan } from "../../extras.ts";
import type { Migration } from "../../kinds/generated.ts";
import type { Column, Field } from "../output.ts";
import { formatDuration, formatSize, formatTime } from "../units.ts";
import type { HostNames } from "./vm-view.ts";

type Status = NonNullable<Migration["status"]>;
type Receipt = NonNullable<Status["receipt"]>;
type Site = Status["source"];

/** The table of `migration ls`. */
export const migrationColumns: readonly Column<Migration>[] = [
  { title: "ID", value: (r) => r.id },
  { title: "VM", value: (r) => r.name },
  { title: "PHASE", value: (r) => r.phase, phase: true },
  { title: "FROM", value: (r) => placeOf(r.status?.source) },
  { title: "TO", value: (r) => placeOf(r.status?.target) || wishOf(r) },
  { title: "SENT", value: (r) => formatSize(sentOf(r)), align: "right" },
  { title: "DOWNTIME", value: (r) => downtimeOf(r.status?.receipt), align: "right" },
  { title: "TOOK", value: tookOf, align: "right" },
  { title: "AGE", value: (r) => formatDuration(Date.now() - Date.parse(r.created_at)), align: "right" },
];

/** The lines of `migration show`, and the receipt at the end of a move. */
export function migrationFields(r: Migration, hosts: HostNames): readonly Field[] {
  const { spec, status } = r;
  const receipt = status?.receipt;
  return [
    ["vm", r.name],
    ["id", r.id],
    ["phase", r.phase],
    ["error", status?.error ? `${status.error.message} (${status.error.reason})` : ""],
    ["waiting for", status?.waiting_for ?? ""],
    ["type", status?.type ?? spec.type],
    ["from", siteOf(status?.source, hosts)],
    ["to", siteOf(status?.target, hosts) || wishOf(r)],
    ["max downtime", `${formatTime(spec.max_downtime_ms)}, else ${spec.on_unreachable}`],
    ...(receipt ? receiptFields(receipt) : progressFields(status?.progress ?? null)),
    ["started", status?.started_at ?? r.created_at],
    ["ended", status?.ended_at ?? ""],
  ];
}

/** As a move goes through them. */
const phaseOrder = ["preparing", "ready", "disk-copy", "pre-copy", "converged", "switchover", "post-copy"];
/** More changes of codec than this are counted, not listed. */
const codecsShown = 4;

function codecsOf(history: Receipt["codec_history"]): string {
  if (history.length <= codecsShown) {
    return history.map(({ codec, at_ms }) => `${codec} from ${formatTime(at_ms)}`).join(", ");
  }
  const names = [...new Set(history.map(({ codec }) => codec))].join(", ");
  return `${names} by turns (${String(history.length - 1)} changes)`;
}

function receiptFields(receipt: Receipt): readonly Field[] {
  const { bytes, phase_ms, cpu_seconds, compression_ratio: ratio } = receipt;
  const known = phaseOrder.filter((phase) => phase in phase_ms);
  const others = Object.keys(phase_ms).filter((phase) => !phaseOrder.includes(phase));
  const phases = [...known, ...others].map((phase) => `${phase} ${formatTime(phase_ms[phase] ?? 0)}`);
  const stopped = `source ${formatTime(receipt.stopped_ms)}, target ${formatTime(receipt.resumed_ms)}`;
  return [
    ["took", `${formatTime(receipt.duration_ms)}${phases.length > 0 ? `: ${phases.join(", ")}` : ""}`],
    ["downtime", receipt.downtime_ms === null ? "" : `${formatTime(receipt.downtime_ms)} (${stopped})`],
    [
      "sent",
      `${formatSize(receipt.bytes_sent)}${ratio === null ? "" : `, ${shareText(ratio)} of what had to move`}`,
    ],
    [
      "memory",
      bytes.memory_raw + bytes.memory_zero === 0
        ? ""
        : [
            `${formatSize(bytes.memory_raw)} in ${count(receipt.rounds, "round")}`,
            `${formatSize(bytes.memory_in_image)} found in the image`,
            `${formatSize(bytes.memory_zero)} zeros`,
            `${formatSize(bytes.memory_wire)} sent`,
          ].join(", "),
    ],
    ["disk", bytes.disk_raw === 0 ? "" : `${diskText(bytes)}, ${formatSize(bytes.disk_wire)} sent`],
    ["codec", codecsOf(receipt.codec_history)],
    ["page stage", receipt.page_stage ? "on" : "off"],
    ["struggle", struggleOf(receipt.convergence)],
    ["cpu", `source ${cpu_seconds.source.toFixed(1)} s, target ${cpu_seconds.target.toFixed(1)} s`],
  ];
}

/** Receipts of before disks were kept do not tell of it. */
function diskText({ disk_raw, disk_kept = 0 }: Partial<Receipt["bytes"]> & { disk_raw: number }): string {
  if (disk_kept === 0) return formatSize(disk_raw);
  return `${formatSize(disk_raw)} of ${formatSize(disk_raw + disk_kept)} (the rest was kept there)`;
}

function keptText(keptBytes = 0): string {
  return keptBytes === 0 ? "" : `, besides ${formatSize(keptBytes)} of disk that is kept there`;
}

/** What was done about a guest that wrote faster than the link carried. */
function struggleOf(convergence: Receipt["convergence"]): string {
  if (!convergence) return "";
  const { stalls, throttle_percent, forced, post_copy_bytes, page_requests, recoveries } = convergence;
  return [
    stalls > 0 ? count(stalls, "stall") : "",
    throttle_percent > 0 ? `slowed by up to ${String(throttle_percent)} %` : "",
    forced ? "stopped for longer than allowed" : "",
    post_copy_bytes > 0
      ? `${formatSize(post_copy_bytes)} followed it, ${count(page_requests, "page")} waited for`
      : "",
    recoveries > 0 ? `${count(recoveries, "connection")} made again` : "",
  ]
    .filter((part) => part !== "")
    .join(", ");
}

function progressFields(progress: Status["progress"]): readonly Field[] {
  if (!progress) return [];
  return [
    ["remaining", `${formatSize(progress.bytes_remaining)} of ${formatSize(progress.bytes_total)}`],
    ["sent", `${formatSize(progress.bytes_sent)} at ${formatSize(progress.throughput)}/s, ${progress.codec}`],
    ["guest writes", `${formatSize(progress.dirty_rate)}/s`],
    ["would stop for", formatTime(progress.predicted_downtime_ms)],
    ["expected end", progress.estimated_completion_at ?? ""],
  ];
}

/** The lines of `vm migrate --dry-run`. */
export function planFields(name: string, plan: MigrationPlan, hosts: HostNames): readonly Field[] {
  const { predicted, target } = plan;
  const { basis, downtime_ms: downtime } = predicted;
  return [
    ["vm", name],
    ["possible", plan.possible ? "yes" : "no"],
    ["in the way", plan.blockers.map(({ code, message }) => `${message} (${code})`).join("\n")],
    ["type", plan.type],
    ["to", siteOf(target, hosts)],
    ["to move", `${formatSize(predicted.bytes_total)}${keptText(predicted.disk_kept_bytes)}`],
    ["to send", `about ${formatSize(predicted.bytes_on_wire)}`],
    ["would take", `about ${formatTime(predicted.seconds * 1000)}`],
    ["downtime", downtime === null ? "it is off" : `about ${formatTime(downtime)}`],
    ["risk", predicted.risk ?? ""],
    [
      "predicted from",
      basis === "assumption" ? "assumptions: it has not moved before" : "its last migration",
    ],
  ];
}

/** One sentence for the end of a move. */
export function movedSentence({ name, status }: Migration): string {
  const { source, target, receipt } = status ?? {};
  const downtime = receipt?.downtime_ms ?? null;
  const still = downtime === null ? "" : ` It stood still for ${formatTime(downtime)}.`;
  return `${name} has moved from ${placeOf(source)} to ${placeOf(target)}.${still}`;
}

const placeOf = (site: Site | null | undefined): string => (site ? `${site.provider}/${site.region}` : "");

function siteOf(site: Site | null | undefined, hosts: HostNames): string {
  return site ? `${placeOf(site)} (${hosts.get(site.host_id) ?? site.host_id})` : "";
}

const wishOf = ({ spec }: Migration): string =>
  spec.host ?? [spec.provider, spec.region].filter((part) => part !== null).join("/");

const sentOf = ({ status }: Migration): number =>
  status?.receipt?.bytes_sent ?? status?.progress?.bytes_sent ?? 0;

function downtimeOf(receipt: Receipt | null | undefined): string {
  const ms = receipt?.downtime_ms ?? null;
  return ms === null ? "" : formatTime(ms);
}

function tookOf({ status }: Migration): string {
  return status?.receipt ? formatTime(status.receipt.duration_ms) : "";
}

const shareText = (ratio: number): string => `${(ratio * 100).toFixed(1)} %`;
const count = (n: number, noun: string): string => `${String(n)} ${noun}${n === 1 ? "" : "s"}`;
