/** How images are shown. */
import type { Image } from "../../kinds/generated.ts";
import type { Column, Field } from "../output.ts";
import { formatDuration, formatSize } from "../units.ts";

const sizeOf = ({ status }: Image): number =>
  (status?.files ?? []).reduce((sum, file) => sum + file.size_bytes, 0);
const formatSizeOf = (image: Image): string => (sizeOf(image) > 0 ? formatSize(sizeOf(image)) : "");

export const columns: readonly Column<Image>[] = [
  { title: "NAME", value: (r) => r.name },
  { title: "ID", value: (r) => r.id },
  { title: "PHASE", value: (r) => r.phase, phase: true },
  { title: "TYPE", value: (r) => r.spec.type },
  { title: "ARCHITECTURE", value: (r) => r.spec.architecture },
  { title: "SIZE", value: formatSizeOf, align: "right" },
  { title: "AGE", value: (r) => formatDuration(Date.now() - Date.parse(r.created_at)), align: "right" },
];

/** The lines of `image show`. */
export function fieldsOf(r: Image): readonly Field[] {
  const { source } = r.spec;
  return [
    ["name", r.name],
    ["id", r.id],
    ["phase", r.phase],
    ["problem", r.problem ? `${r.problem.message} (${r.problem.reason})` : ""],
    ["type", r.spec.type],
    ["architecture", r.spec.architecture],
    ["aliases", r.spec.aliases.join(", ")],
    ["description", r.spec.description],
    ["source", sourceOf(source)],
    [
      "files",
      (r.status?.files ?? [])
        .map((f) => `${f.role} ${formatSize(f.size_bytes)} sha256:${f.sha256}`)
        .join("\n"),
    ],
    ["command line", r.spec.command_line],
    ["created", r.created_at],
  ];
}

function sourceOf(source: Image["spec"]["source"]): string {
  if (source.type === "url") return source.url;
  return source.type === "instance" ? `the disk of ${source.instance}` : source.type;
}

/** Those that are here first, then by name. */
export function byUse(a: Image, b: Image): number {
  const here = Number(b.phase === "available") - Number(a.phase === "available");
  return here || a.name.localeCompare(b.name, "en");
}
