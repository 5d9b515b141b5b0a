/**
 * Writes the archive format that Linux unpacks as its initial file system ("newc"). Made here and not
 * with cpio(1) because a device node then needs no root, and the same input gives the same bytes.
 */

export type ArchiveEntry =
  | { readonly type: "directory"; readonly path: string }
  | {
      readonly type: "file";
      readonly path: string;
      readonly content: Uint8Array;
      readonly executable: boolean;
    }
  | { readonly type: "device"; readonly path: string; readonly major: number; readonly minor: number };

const formats = { directory: 0o040755, file: 0o100644, device: 0o020600 } as const;
const headerBytes = 110;

/** Packs the entries; parents must come before what is in them. Everything belongs to root. */
export function packInitramfs(entries: readonly ArchiveEntry[]): Buffer {
  const parts = entries.map((entry, index) => packEntry(entry, index + 1));
  parts.push(packRecord("TRAILER!!!", { inode: 0, mode: 0, links: 1, content: new Uint8Array() }));
  return Buffer.concat(parts);
}

function packEntry(entry: ArchiveEntry, inode: number): Buffer {
  const content = entry.type === "file" ? entry.content : new Uint8Array();
  const executable = entry.type === "file" && entry.executable;
  return packRecord(entry.path, {
    inode,
    mode: executable ? 0o100755 : formats[entry.type],
    links: entry.type === "directory" ? 2 : 1,
    content,
    ...(entry.type === "device" ? { major: entry.major, minor: entry.minor } : {}),
  });
}

interface RecordFields {
  readonly inode: number;
  readonly mode: number;
  readonly links: number;
  readonly content: Uint8Array;
  readonly major?: number;
  readonly minor?: number;
}

function packRecord(
  path: string,
  { inode, mode, links, content, major = 0, minor = 0 }: RecordFields,
): Buffer {
  const name = Buffer.from(`${path}\0`);
  const owner = [0, 0]; // uid, gid
  const modified = 0;
  const onDevice = [0, 0];
  const checksum = 0; // unused in this variant
  const numbers = [
    inode,
    mode,
    ...owner,
    links,
    modified,
    content.length,
    ...onDevice,
    major,
    minor,
    name.length,
  ];
  const header = ["070701", ...[...numbers, checksum].map(toHex)].join("");
  return Buffer.concat([
    Buffer.from(header),
    name,
    padding(headerBytes + name.length),
    content,
    padding(content.length),
  ]);
}

const toHex = (value: number) => value.toString(16).toUpperCase().padStart(8, "0");
const padding = (length: number) => Buffer.alloc((4 - (length % 4)) % 4);
