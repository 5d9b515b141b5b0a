/** How instances are shown. */
import type { Instance } from "../../kinds/generated.ts";
import type { Column, Field } from "../output.ts";
import { formatDuration, formatSize } from "../units.ts";

/** Names of hosts by id, where they are known. */
export type HostNames = ReadonlyMap<string, string>;

const age = (time: string): string => formatDuration(Date.now() - Date.parse(time));

/** The table of `vm ls`. */
export function instanceColumns(hosts: HostNames): readonly Column<Instance>[] {
  return [
    { title: "NAME", value: (r) => r.name },
    { title: "ID", value: (r) => r.id },
    { title: "PHASE", value: (r) => r.phase, phase: true },
    { title: "CPUS", value: (r) => String(r.spec.cpus), align: "right" },
    { title: "MEMORY", value: (r) => formatSize(r.spec.memory_bytes), align: "right" },
    { title: "DISK", value: (r) => formatSize(r.spec.disk_bytes), align: "right" },
    { title: "HOST", value: (r) => hostOf(r, hosts) },
    { title: "ADDRESS", value: (r) => r.status?.guest_address ?? "" },
    { title: "AGE", value: (r) => age(r.created_at), align: "right" },
  ];
}

/** The lines of `vm show`. */
export function instanceFields(r: Instance, hosts: HostNames): readonly Field[] {
  const { spec, status, placement, problem } = r;
  const forwards = status?.forwards ?? [];
  return [
    ["name", r.name],
    ["id", r.id],
    ["phase", r.phase],
    [
      "problem",
      problem
        ? `${problem.message} (${problem.reason})${problem.stuck ? "; nothing more is tried" : ""}`
        : "",
    ],
    ["message", status?.message ?? ""],
    ["image", spec.image ?? ""],
    ["adopted", spec.adopted ? `${spec.adopted.name} (${spec.adopted.uuid})` : ""],
    ["cpus", sizeAs(spec.cpus, status?.cpus, String)],
    ["memory", sizeAs(spec.memory_bytes, status?.memory_bytes, formatSize)],
    ["disk", sizeAs(spec.disk_bytes, status?.disk_bytes, formatSize)],
    ["waits for a restart", status?.pending_restart.join(", ") ?? ""],
    ["host", hostOf(r, hosts)],
    [
      "place",
      placement ? [placement.provider, placement.region, placement.zone].filter(Boolean).join(" / ") : "",
    ],
    ["address", status?.guest_address ?? ""],
    [
      "forwards",
      forwards
        .map((f) => `${f.host_address || "127.0.0.1"}:${f.host_port} -> ${f.guest_port}/${f.protocol}`)
        .join("\n"),
    ],
    ["acceleration", status?.acceleration ?? ""],
    ["running for", status?.started_at ? age(status.started_at) : ""],
    ["crashes", status?.crashes ? String(status.crashes) : ""],
    ["restart policy", spec.restart_policy],
    [
      "labels",
      Object.entries(r.labels)
        .map(([key, value]) => (value ? `${key}=${value}` : key))
        .join(", "),
    ],
    ["created", r.created_at],
  ];
}

/** What was asked for, and what there is when that differs. */
function sizeAs(wanted: number, actual: number | undefined, format: (value: number) => string): string {
  return actual === undefined || actual === 0 || actual === wanted
    ? format(wanted)
    : `${format(wanted)} (now ${format(actual)})`;
}

function hostOf(r: Instance, hosts: HostNames): string {
  const id = r.status?.host_id || r.placement?.host_id || "";
  return hosts.get(id) ?? id;
}
