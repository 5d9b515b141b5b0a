/** `skerry image create`: an image of a machine's disk, as it is now. */
import { Command } from "commander";
import { Fault } from "#kernel/fault.ts";
import type { Run, Session } from "../session.ts";
import { parseDuration } from "../units.ts";
import { awaitPhases, describeImage } from "../waiting.ts";
import { fieldsOf } from "./image-view.ts";

interface CreateOptions {
  readonly name?: string;
  readonly description?: string;
  readonly wait: boolean;
  readonly timeout?: number;
}

const hourMs = 3_600_000;

/** The command that makes an image of a machine. */
export function createCommand(run: Run): Command {
  return new Command("create")
    .description("make an image of a machine's disk as it is now; one that runs goes on running")
    .argument("<vm>", "name or id of the machine")
    .option("--name <name>", "the image's name (default: the machine's)")
    .option("--description <text>", "what is in it")
    .option("--no-wait", "do not wait until it is there")
    .option("--timeout <duration>", "how long to wait (default: 1h)", parseDuration)
    .action(run(createImage));
}

async function createImage(session: Session, vm: string, options: CreateOptions): Promise<void> {
  const { images, instances } = await session.cloud();
  const { signal } = session;
  const instance = await instances.find(vm, { signal });
  const { name = instance.name, description } = options;
  const source = { type: "instance" as const, instance: instance.id };
  const spec = { source, ...(description !== undefined && { description }) };
  const created = await images.create({ name, spec }, { signal });
  const { timeout = hourMs } = options;
  const image = options.wait
    ? await awaitPhases(session, images, created, ["available"], { timeout, describe: describeImage })
    : created;
  if (!image) throw new Fault("conflict", `${name} was deleted meanwhile`, { reason: "DELETED" });
  session.out.show(image, fieldsOf(image));
}
