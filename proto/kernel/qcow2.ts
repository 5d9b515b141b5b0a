/**
 * What a disk image says of itself in its first bytes. Read before any other program touches the file:
 * a qcow2 may name other files of the host as its backing or data file, and whoever opens it would read
 * them into the guest.
 */
import { Fault } from "./fault.ts";

/** Enough of a file's beginning to judge it. */
export const diskHeaderBytes = 512;

export interface Qcow2Header {
  readonly version: number;
  readonly virtualSizeBytes: bigint;
  readonly hasBackingFile: boolean;
  readonly hasDataFile: boolean;
  readonly encrypted: boolean;
  /** The image was not closed properly and its own tables say so. */
  readonly corrupt: boolean;
}

export type DiskFormat = "qcow2" | "raw";

const magic = 0x514649fb; // "QFI" and 0xfb
const version2HeaderBytes = 72;
const version3HeaderBytes = 104;
const incompatible = { corrupt: 1n << 1n, dataFile: 1n << 2n } as const;

/** Reads a qcow2 header; undefined when these are not the first bytes of one. */
export function parseQcow2Header(head: Uint8Array): Qcow2Header | undefined {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  if (head.length < 8 || view.getUint32(0) !== magic) return undefined;
  const version = view.getUint32(4);
  if (version !== 2 && version !== 3) throw damaged(`its version is ${String(version)}`);
  if (head.length < (version === 2 ? version2HeaderBytes : version3HeaderBytes)) {
    throw damaged("it ends within its header");
  }
  const clusterBits = view.getUint32(20);
  if (clusterBits < 9 || clusterBits > 21) throw damaged("its cluster size is impossible");
  const features = version === 2 ? 0n : view.getBigUint64(72);
  return {
    version,
    virtualSizeBytes: view.getBigUint64(24),
    hasBackingFile: view.getBigUint64(8) !== 0n,
    hasDataFile: (features & incompatible.dataFile) !== 0n,
    encrypted: view.getUint32(32) !== 0,
    corrupt: (features & incompatible.corrupt) !== 0n,
  };
}

/**
 * Tells the format of a disk image that may be used as one. Throws `invalid` for a qcow2 that reaches
 * outside itself or cannot work, and for what is plainly something else.
 * @param head the first {@link diskHeaderBytes} of the file, or all of a shorter one
 */
export function inspectDisk(head: Uint8Array): {
  readonly format: DiskFormat;
  readonly virtualSizeBytes: bigint | undefined;
} {
  const header = parseQcow2Header(head);
  if (header) {
    refuseUnusable(header);
    return { format: "qcow2", virtualSizeBytes: header.virtualSizeBytes };
  }
  const other = otherFormats.find(({ at, bytes }) => bytes.every((byte, i) => head[at + i] === byte));
  if (other) {
    throw new Fault("invalid", `the image is ${other.name}; only qcow2 and raw disks are taken`, {
      reason: "IMAGE_FORMAT_UNSUPPORTED",
      detail: { found: other.name },
    });
  }
  return { format: "raw", virtualSizeBytes: undefined };
}

function refuseUnusable(header: Qcow2Header): void {
  const refuse = (reason: string, message: string) => new Fault("invalid", message, { reason });
  if (header.hasBackingFile) {
    throw refuse("IMAGE_HAS_BACKING_FILE", "the image is an overlay on another file; flatten it first");
  }
  if (header.hasDataFile) {
    throw refuse("IMAGE_HAS_DATA_FILE", "the image keeps its data in another file; convert it first");
  }
  if (header.encrypted) throw refuse("IMAGE_ENCRYPTED", "encrypted images are not supported");
  if (header.corrupt) throw damaged("it is marked as such; try `qemu-img check -r all`");
}

function damaged(how: string): Fault {
  return new Fault("invalid", `the qcow2 image is damaged: ${how}`, { reason: "IMAGE_CORRUPT" });
}

/** Formats that are easily mistaken for a disk; a raw disk has no mark, so anything else passes as one. */
const otherFormats = [
  { name: "a VMDK", at: 0, bytes: ascii("KDMV") },
  { name: "a VHDX", at: 0, bytes: ascii("vhdxfile") },
  { name: "a VHD", at: 0, bytes: ascii("conectix") },
  { name: "a VDI", at: 64, bytes: [0x7f, 0x10, 0xda, 0xbe] },
  { name: "compressed with gzip", at: 0, bytes: [0x1f, 0x8b, 0x08] },
  { name: "compressed with xz", at: 0, bytes: [0xfd, ...ascii("7zXZ")] },
  { name: "compressed with zstd", at: 0, bytes: [0x28, 0xb5, 0x2f, 0xfd] },
  { name: "compressed with bzip2", at: 0, bytes: ascii("BZh") },
  { name: "a ZIP archive", at: 0, bytes: [...ascii("PK"), 3, 4] },
  { name: "a web page", at: 0, bytes: ascii("<!DOCTYPE") },
  { name: "a web page", at: 0, bytes: ascii("<!doctype") },
  { name: "a web page", at: 0, bytes: ascii("<html") },
] as const satisfies readonly { name: string; at: number; bytes: readonly number[] }[];

function ascii(text: string): readonly number[] {
  return Array.from(text, (character) => character.charCodeAt(0));
}
