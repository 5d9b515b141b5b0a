/** `skerry image`: what machines boot from. */
import { Command, Option } from "commander";
import type { Image } from "../../kinds/generated.ts";
import type { Column, Field } from "../output.ts";
import type { Run, Session } from "../session.ts";
import { formatDuration, formatSize } from "../units.ts";
import { importCommand } from "./image-import.ts";

/** All about images. */
export function imageCommand(run: Run): Command {
  const image = new Command("image").description("what machines boot from");
  image
    .command("ls")
    .alias("list")
    .description("list images; those `listed` are downloaded on first use")
    .addOption(new Option("--type <type>", "only disks or kernels").choices(["disk", "kernel"]))
    .option("--architecture <name>", "only those for x86_64 or aarch64")
    .action(
      run(async (session, options: { type?: string; architecture?: string }) => {
        const { images } = await session.cloud();
        const all = await images.list(options, { signal: session.signal, pageSize: 500 }).all();
        session.out.list(all, columns);
      }),
    );
  image
    .command("show")
    .description("show an image")
    .argument("<image>", "name or id")
    .action(
      run(async (session, name: string) => {
        const { images } = await session.cloud();
        const found = await images.find(name, { signal: session.signal });
        session.out.show(found, fieldsOf(found));
      }),
    );
  image.addCommand(importCommand(run));
  image.command("rm").description("delete images").argument("<image...>", "names or ids").action(run(remove));
  return image;
}

async function remove(session: Session, names: readonly string[]): Promise<void> {
  const { images } = await session.cloud();
  const found: Image[] = [];
  for (const name of names) found.push(await images.find(name, { signal: session.signal }));
  for (const { id } of found) await images.delete(id, { signal: session.signal });
  const removed = found.map(({ id, name }) => ({ id, name }));
  session.out.done(removed.map(({ name }) => `${name} is being deleted.`).join("\n"), removed);
}

const sizeOf = ({ status }: Image): number =>
  (status?.files ?? []).reduce((sum, file) => sum + file.size_bytes, 0);
const formatSizeOf = (image: Image): string => (sizeOf(image) > 0 ? formatSize(sizeOf(image)) : "");

const columns: readonly Column<Image>[] = [
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
    ["source", source.type === "url" ? source.url : source.type],
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
