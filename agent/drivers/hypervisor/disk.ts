/** The root disk: a qcow2 over its image's disk, or a blank one. It is there whole or not at all, and never gets smaller. */
import { open, rename, rm, stat } from "node:fs/promises";
import { exec } from "#agent/exec.ts";
import { Fault } from "#kernel/fault.ts";
import { diskOf, type DiskFile, type LocalImage } from "../driver.ts";
import { removeBitmaps } from "./disk-bitmaps.ts";
import { hostFault } from "./host-fault.ts";

const toolTimeoutMs = 60_000;
const qcow2Magic = 0x51_46_49_fb;

/** Of a guest that QEMU has stopped because a write found the host's disk full: failing the write would harm it. */
export const noRoom = {
  reason: "HOST_DISK_FULL",
  message: "the guest stands still: its host has no room for what it writes",
} as const;

/** Virtual size of the disk; undefined when it is not made yet. True also while QEMU runs on it. */
export async function findDiskBytes(path: string): Promise<bigint | undefined> {
  try {
    return await qcow2Bytes(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Bytes of the host's disk that it takes up. */
export async function allocatedBytes(path: string): Promise<bigint> {
  return (await stat(path, { bigint: true })).blocks * 512n;
}

/** Throws `invalid` when the disk would have to shrink. */
export function refuseShrinking(presentBytes: bigint, wantedBytes: bigint): void {
  if (wantedBytes >= presentBytes) return;
  throw new Fault("invalid", "a disk cannot shrink", {
    reason: "DISK_CANNOT_SHRINK",
    detail: { field: "disk_bytes", minimum: Number(presentBytes) },
  });
}

/** Makes the disk, or grows it. For machines that do not run. */
export async function ensureDisk(
  disk: { readonly path: string; readonly image: LocalImage; readonly bytes: bigint },
  signal: AbortSignal,
): Promise<void> {
  const present = await findDiskBytes(disk.path);
  if (present === disk.bytes) return;
  if (present !== undefined) {
    refuseShrinking(present, disk.bytes);
    // One that was not stored would keep the disk from growing, and none is worth that.
    await removeBitmaps(disk.path, signal);
    await qemuImg(["resize", "-q", "-f", "qcow2", disk.path, String(disk.bytes)], signal);
    return;
  }
  const backing = await backingOf(disk.image, disk.bytes);
  const unfinished = `${disk.path}.new`;
  await rm(unfinished, { force: true });
  await qemuImg(["create", "-q", "-f", "qcow2", ...backing, unfinished, String(disk.bytes)], signal);
  await rename(unfinished, disk.path);
}

async function backingOf(image: LocalImage, diskBytes: bigint): Promise<string[]> {
  const base = diskOf(image);
  if (!base) return [];
  const minimum = await imageBytes(base);
  if (diskBytes < minimum) {
    throw new Fault("invalid", "the disk is smaller than its image", {
      reason: "DISK_SMALLER_THAN_IMAGE",
      detail: { field: "disk_bytes", minimum: Number(minimum) },
    });
  }
  return ["-b", base.path, "-F", base.format];
}

async function imageBytes({ path, format }: DiskFile): Promise<bigint> {
  try {
    return format === "qcow2" ? await qcow2Bytes(path) : BigInt((await stat(path)).size);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new Fault("unavailable", "the image is not on the host any more", {
      reason: "IMAGE_MISSING",
      cause: error,
    });
  }
}

/** Reads the virtual size from the header: starting a program for eight bytes would cost 40 ms. */
async function qcow2Bytes(path: string): Promise<bigint> {
  await using file = await open(path, "r");
  const header = Buffer.alloc(32);
  const { bytesRead } = await file.read(header, 0, header.length, 0);
  if (bytesRead < header.length || header.readUInt32BE(0) !== qcow2Magic) {
    throw new Fault("invalid", "the image or the disk made from it is damaged", {
      reason: "IMAGE_CORRUPT",
      cause: new Error(`${path} has no qcow2 header`),
    });
  }
  return header.readBigUInt64BE(24);
}

async function qemuImg(args: readonly string[], signal: AbortSignal): Promise<void> {
  try {
    await exec("qemu-img", args, { signal, timeoutMs: toolTimeoutMs });
  } catch (error) {
    throw hostFault(error, "the disk cannot be made or grown");
  }
}
