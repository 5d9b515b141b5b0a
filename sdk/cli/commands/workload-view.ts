/** How workloads are shown. */
import type { Workload } from "../../kinds/generated.ts";
import type { Column, Field } from "../output.ts";
import { formatDuration, formatSize } from "../units.ts";
import type { Stage } from "../waiting.ts";
import type { HostNames } from "./vm-view.ts";

const age = (time: string): string => formatDuration(Date.now() - Date.parse(time));

/** The table of `workload ls`. */
export function workloadColumns(hosts: HostNames): readonly Column<Workload>[] {
  return [
    { title: "NAME", value: (r) => r.name },
    { title: "ID", value: (r) => r.id },
    { title: "PHASE", value: (r) => r.phase, phase: true },
    { title: "HEALTH", value: (r) => r.status?.health ?? "" },
    { title: "IMAGE", value: (r) => r.spec.image },
    { title: "CPUS", value: (r) => String(r.spec.cpus), align: "right" },
    { title: "MEMORY", value: (r) => formatSize(r.spec.memory_bytes), align: "right" },
    { title: "HOST", value: (r) => hostOf(r, hosts) },
    { title: "AGE", value: (r) => age(r.created_at), align: "right" },
  ];
}

/** The lines of `workload show`. */
export function workloadFields(r: Workload, hosts: HostNames): readonly Field[] {
  const { spec, status, placement, problem } = r;
  const { target_location: near } = spec;
  return [
    ["name", r.name],
    ["id", r.id],
    ["phase", r.phase],
    ["problem", problem ? `${problem.message} (${problem.reason})` : ""],
    ["message", status?.message ?? ""],
    ["health", status?.health ?? ""],
    ["type", spec.type],
    ["image", spec.image],
    ["command", spec.command.join(" ")],
    ["cpus", String(spec.cpus)],
    ["memory", formatSize(spec.memory_bytes)],
    ["gpus", spec.gpus > 0 ? (status?.gpus ?? [String(spec.gpus)]).join(", ") : ""],
    ["needed at", near ? `${String(near.latitude)}, ${String(near.longitude)}` : ""],
    ["host", hostOf(r, hosts)],
    [
      "place",
      placement ? [placement.provider, placement.region, placement.zone].filter(Boolean).join(" / ") : "",
    ],
    [
      "ports",
      (status?.ports ?? [])
        .map((p) => `${p.host_address}:${String(p.host_port)} -> ${String(p.container_port)}/${p.protocol}`)
        .join("\n"),
    ],
    ["engine", status?.engine ?? ""],
    ["exit code", status?.exit_code === null || !status ? "" : String(status.exit_code)],
    ["running for", status?.started_at ? age(status.started_at) : ""],
    ["crashes", status?.crashes ? String(status.crashes) : ""],
    ["when cut off", spec.on_disconnect],
    ["created", r.created_at],
  ];
}

/** What is told while one waits. */
export function describeWorkload({ phase, problem, status }: Workload): Stage {
  const why = problem?.message ?? status?.message ?? "";
  return { stage: why === "" ? phase : `${phase}: ${why}` };
}

function hostOf(r: Workload, hosts: HostNames): string {
  const id = r.status?.host_id || r.placement?.host_id || "";
  return hosts.get(id) ?? id;
}
