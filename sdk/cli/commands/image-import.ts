/** `skerry image import`: from a URL, which the cloud fetches, or from a file, which is sent. */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { basename } from "node:path";
import { Command, Option } from "commander";
import { Fault } from "#kernel/fault.ts";
import type { Image, ImageInput } from "../../kinds/generated.ts";
import { percentOf } from "../progress.ts";
import type { Run, Session } from "../session.ts";
import { collect, collectPair, formatSize, parseDuration } from "../units.ts";
import { awaitPhases, describeImage } from "../waiting.ts";
import { fieldsOf } from "./image-view.ts";

interface ImportOptions {
  readonly name?: string;
  readonly type: "disk" | "kernel" | "container";
  readonly architecture?: "x86_64" | "aarch64";
  readonly alias?: readonly string[];
  readonly description?: string;
  readonly sha256?: string;
  readonly checksumsUrl?: string;
  readonly label?: Readonly<Record<string, string>>;
  readonly wait: boolean;
  readonly timeout?: number;
}

/** The command that brings an image in. */
export function importCommand(run: Run): Command {
  return new Command("import")
    .description(
      "bring in a disk (qcow2 or raw) from a URL or a file, or a container's OCI archive from a file",
    )
    .argument("<source>", "an http or https URL, or a file")
    .option("--name <name>", "its name (default: the file's, without suffix)")
    .addOption(
      new Option("--type <type>", "what it is").choices(["disk", "kernel", "container"]).default("disk"),
    )
    .addOption(new Option("--architecture <name>", "for which CPUs").choices(["x86_64", "aarch64"]))
    .option("--alias <name>", "another name; repeatable", collect)
    .option("--description <text>", "what is in it")
    .option("--sha256 <digest>", "what the download must be")
    .option("--checksums-url <url>", "SHA256SUMS file that lists the download")
    .option("--label <key=value>", "label; repeatable", collectPair)
    .option("--no-wait", "do not wait until a download is there")
    .option("--timeout <duration>", "how long to wait for a download (default: 1h)", parseDuration)
    .action(run(importImage));
}

async function importImage(session: Session, source: string, options: ImportOptions): Promise<void> {
  const image = /^https?:\/\//i.test(source)
    ? await importUrl(session, source, options)
    : await importFile(session, source, options);
  session.out.show(image, fieldsOf(image));
}

async function importUrl(session: Session, url: string, options: ImportOptions): Promise<Image> {
  const { images } = await session.cloud();
  const source = {
    type: "url" as const,
    url,
    ...(options.sha256 !== undefined && { sha256: options.sha256 }),
    ...(options.checksumsUrl !== undefined && { checksums_url: options.checksumsUrl }),
  };
  const body = toBody(new URL(url).pathname, source, options);
  const created = await images.create(body, { signal: session.signal });
  if (!options.wait) return created;
  const { timeout = 3600_000 } = options;
  // One with a list of checksums stays `listed` until a machine asks for it.
  const arrived = await awaitPhases(session, images, created, ["available", "listed"], {
    timeout,
    describe: describeImage,
  });
  if (arrived) return arrived;
  throw new Fault("conflict", `${created.name} was deleted meanwhile`, { reason: "DELETED" });
}

async function importFile(session: Session, path: string, options: ImportOptions): Promise<Image> {
  const { images } = await session.cloud();
  const total = await sizeOfFile(path);
  const body = toBody(path, { type: "upload" }, options);
  const created = await images.create(body, { signal: session.signal });
  try {
    return await images.upload(created.id, countedStream(session, path, total), { signal: session.signal });
  } catch (thrown) {
    // Half an upload is of no use, and its name would stand in the way of the next try.
    await images.delete(created.id, { timeoutMs: 10_000 }).catch((left: unknown) => {
      session.note(
        `${created.id} is left over: ${left instanceof Error ? left.message : "it could not be deleted"}`,
      );
    });
    throw thrown;
  }
}

function toBody(path: string, source: ImageInput["source"], options: ImportOptions) {
  const { type, architecture, alias, description, label } = options;
  const name = options.name ?? basename(path).replace(/\.(qcow2|img|raw|tar|gz|xz)$/i, "");
  const spec: ImageInput = {
    type,
    source,
    ...(architecture && { architecture }),
    ...(alias && { aliases: alias }),
    ...(description !== undefined && { description }),
  };
  return { name, spec, ...(label && { labels: label }) };
}

async function sizeOfFile(path: string): Promise<number> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    throw new Fault("invalid", `cannot read ${path}: ${error.code ?? error.message}`, {
      reason: "FILE_UNREADABLE",
      cause: error,
    });
  });
  if (found.isFile()) return found.size;
  throw new Fault("invalid", `${path} is not a file`, { reason: "FILE_UNREADABLE" });
}

/** The file's bytes, telling how many have gone out. */
function countedStream(session: Session, path: string, total: number): ReadableStream<Uint8Array> {
  const source = createReadStream(path, { highWaterMark: 1024 ** 2 });
  const progress = session.progress();
  async function* chunks(): AsyncGenerator<Uint8Array> {
    using _shown = progress;
    let sent = 0;
    for await (const chunk of source) {
      yield chunk as Uint8Array;
      sent += (chunk as Uint8Array).byteLength;
      progress.update(`sending ${basename(path)}`, percentOf(sent, total, formatSize(total)));
    }
  }
  return ReadableStream.from<Uint8Array>(chunks());
}
