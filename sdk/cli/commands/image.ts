/** `skerry image`: what machines boot from. */
import { Command, Option } from "commander";
import type { Image } from "../../kinds/generated.ts";
import type { Run, Session } from "../session.ts";
import { createCommand } from "./image-create.ts";
import { importCommand } from "./image-import.ts";
import { byUse, columns, fieldsOf } from "./image-view.ts";

/** All about images. */
export function imageCommand(run: Run): Command {
  const image = new Command("image").description("what machines boot from");
  image
    .command("ls")
    .alias("list")
    .description("list images; those `listed` are downloaded on first use")
    .addOption(
      new Option("--type <type>", "only those of this type").choices(["disk", "kernel", "container"]),
    )
    .option("--architecture <name>", "only those for x86_64 or aarch64")
    .action(
      run(async (session, options: { type?: string; architecture?: string }) => {
        const { images } = await session.cloud();
        const all = await images.list(options, { signal: session.signal, pageSize: 500 }).all();
        session.out.list(all.sort(byUse), columns);
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
  image.addCommand(createCommand(run));
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
