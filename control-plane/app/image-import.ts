/** Makes an image of what an operator points at: a URL, a disk file, or a folder with a manifest. */
import { createReadStream } from "node:fs";
import { open, readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { z } from "zod";
import { Fault } from "#kernel/fault.ts";
import { diskHeaderBytes, inspectDisk } from "#kernel/qcow2.ts";
import type { ImageFile, ImageSpec } from "../resources/image/image.resource.ts";
import type { BlobStore } from "../store/blobs.ts";

export interface ImportContext {
  readonly blobs: BlobStore;
  readonly maxBytes: number;
  readonly signal: AbortSignal;
}

/** What a folder says of the kernel image in it; `path` is relative to the manifest. */
const manifestSchema = z.strictObject({
  type: z.literal("kernel"),
  architecture: z.enum(["x86_64", "aarch64"]),
  command_line: z.string(),
  files: z.array(
    z.strictObject({
      role: z.enum(["kernel", "initrd"]),
      path: z.string().regex(/^[\w.-]+$/),
      sha256: z.string(),
      size_bytes: z.int(),
    }),
  ),
});

const hostArchitecture = process.arch === "arm64" ? "aarch64" : "x86_64";

/**
 * @param known specs by their descriptions: a file that is described as before is not read again
 */
export async function importImage(
  target: string,
  known: ReadonlyMap<string, ImageSpec>,
  context: ImportContext,
): Promise<ImageSpec> {
  if (/^https?:\/\//.test(target)) {
    const source = { type: "url", url: target, sha256: null, checksums_url: null } as const;
    return diskSpec(`downloaded from ${target}`, source);
  }
  const found = await stat(target).catch((cause: unknown) => {
    throw new Fault("invalid", `${JSON.stringify(target)} is no known image, no URL and no file`, {
      reason: "IMAGE_OVERRIDE_UNKNOWN",
      cause,
    });
  });
  if (found.isDirectory()) return await importFolder(target, context);
  // Paths of the host are not for users to read.
  const description = `${basename(target)}, ${String(found.size)} bytes of ${found.mtime.toISOString()}`;
  const before = known.get(description);
  if (before?.source.type === "built-in" && (await holdsAll(context.blobs, before.source.files)))
    return before;
  const file = await importDisk(target, context);
  return diskSpec(description, { type: "built-in", files: [file] });
}

function diskSpec(description: string, source: ImageSpec["source"]): ImageSpec {
  const rest = { aliases: [], command_line: "", os: null, min_disk_bytes: 0 };
  return { type: "disk", architecture: hostArchitecture, description, source, ...rest };
}

async function importDisk(path: string, { blobs, maxBytes, signal }: ImportContext): Promise<ImageFile> {
  await using file = await open(path);
  const { buffer, bytesRead } = await file.read(Buffer.alloc(diskHeaderBytes), 0, diskHeaderBytes, 0);
  const { format } = inspectDisk(buffer.subarray(0, bytesRead));
  const { sha256, sizeBytes } = await blobs.writeStream(createReadStream(path), maxBytes, signal);
  return { role: "disk", sha256, size_bytes: sizeBytes, url: "", format };
}

async function importFolder(directory: string, context: ImportContext): Promise<ImageSpec> {
  const manifest = await readManifest(directory);
  const files: ImageFile[] = [];
  for (const { role, path, sha256, size_bytes } of manifest.files) {
    await importFile(join(directory, path), sha256, context);
    files.push({ role, sha256, size_bytes, url: "", format: "" });
  }
  return {
    type: "kernel",
    architecture: manifest.architecture,
    aliases: [],
    description: "a kernel with its initial file system",
    command_line: manifest.command_line,
    os: null,
    min_disk_bytes: 0,
    source: { type: "built-in", files },
  };
}

async function importFile(
  path: string,
  sha256: string,
  { blobs, maxBytes, signal }: ImportContext,
): Promise<void> {
  if (await blobs.has(sha256)) return;
  const stored = await blobs.writeStream(createReadStream(path), maxBytes, signal);
  if (stored.sha256 === sha256) return;
  throw new Fault("invalid", "a file of a built-in image differs from its manifest; build it again", {
    reason: "IMAGE_DIGEST_MISMATCH",
    cause: new Error(path),
  });
}

async function readManifest(directory: string): Promise<z.infer<typeof manifestSchema>> {
  try {
    return manifestSchema.parse(JSON.parse(await readFile(join(directory, "manifest.json"), "utf8")));
  } catch (cause) {
    throw new Fault(
      "invalid",
      `the folder ${JSON.stringify(directory)} holds no image: its manifest.json is missing or wrong`,
      {
        reason: "IMAGE_MANIFEST_INVALID",
        cause,
      },
    );
  }
}

async function holdsAll(blobs: BlobStore, files: readonly ImageFile[]): Promise<boolean> {
  for (const { sha256 } of files) if (!(await blobs.has(sha256))) return false;
  return true;
}
