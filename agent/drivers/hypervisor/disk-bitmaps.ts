/** The dirty bitmaps that a qcow2 holds, while no QEMU does. */
import { exec } from "#agent/exec.ts";
import { hostFault } from "./host-fault.ts";

const toolTimeoutMs = 60_000;

export interface StoredBitmap {
  readonly name: string;
  /** It was stored when QEMU closed the disk last, so that it has everything. */
  readonly complete: boolean;
}

interface ImageInfo {
  readonly "format-specific"?: {
    readonly data?: {
      readonly bitmaps?: readonly { readonly name: string; readonly flags: readonly string[] }[];
    };
  };
}

export async function listBitmaps(path: string, signal: AbortSignal): Promise<readonly StoredBitmap[]> {
  const { stdout } = await qemuImg(["info", "-U", "--output=json", "-f", "qcow2", path], signal);
  const bitmaps = (JSON.parse(stdout) as ImageInfo)["format-specific"]?.data?.bitmaps ?? [];
  return bitmaps.map(({ name, flags }) => ({
    name,
    complete: flags.includes("auto") && !flags.includes("in-use"),
  }));
}

/** From here on it marks what is written. One that is there stays as it is. */
export async function addBitmap(path: string, name: string, signal: AbortSignal): Promise<void> {
  const names = (await listBitmaps(path, signal)).map((bitmap) => bitmap.name);
  if (!names.includes(name)) await qemuImg(["bitmap", "--add", "-f", "qcow2", path, name], signal);
}

export async function removeBitmaps(path: string, signal: AbortSignal): Promise<void> {
  for (const { name } of await listBitmaps(path, signal))
    await qemuImg(["bitmap", "--remove", "-f", "qcow2", path, name], signal);
}

async function qemuImg(args: readonly string[], signal: AbortSignal) {
  try {
    return await exec("qemu-img", args, { signal, timeoutMs: toolTimeoutMs });
  } catch (error) {
    throw hostFault(error, "the disk's bitmaps cannot be read or changed");
  }
}
