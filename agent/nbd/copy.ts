/** Copies what a dirty bitmap marks from one NBD export to another. */
import type { NbdClient } from "./client.ts";
import type { Extent } from "./wire.ts";

/** Copied at the same time; with their size, the most that is held in memory. */
const piecesAtOnce = 8;
const pieceBytes = 256 * 1024;
/** Zeros take no room on the wire. */
const zeroPieceBytes = 64 * 1024 * 1024;
/** What a request can name, in whole sectors. */
const longestStatus = 2 ** 32 - 2 ** 20;

const isZero = 2;
const isDirty = 1;

/** A stretch of a disk that is to be copied. */
export interface DirtyPiece {
  readonly offset: number;
  readonly length: number;
  readonly zero: boolean;
}

/** The contexts that the source must have been opened with. */
export function copyContexts(bitmap: string): readonly string[] {
  return ["base:allocation", `qemu:dirty-bitmap:${bitmap}`];
}

/** Throws as soon as one piece fails; whoever calls closes both ends then. @param copied called for each piece */
export async function copyDirty(
  source: NbdClient,
  target: NbdClient,
  copied: (piece: DirtyPiece) => void,
): Promise<void> {
  const pieces = listDirty(source);
  const work = async () => {
    for (let next = await pieces.next(); next.done !== true; next = await pieces.next()) {
      const { offset, length, zero } = next.value;
      if (zero) await target.writeZeroes(offset, length);
      else await target.write(offset, await source.read(offset, length));
      copied(next.value);
    }
  };
  await Promise.all(Array.from({ length: piecesAtOnce }, work));
}

async function* listDirty(source: NbdClient): AsyncGenerator<DirtyPiece> {
  for (let at = 0; at < source.bytes;) {
    const [allocation = [], dirty = []] = await source.status(at, Math.min(source.bytes - at, longestStatus));
    const told = Math.min(lengthOf(allocation), lengthOf(dirty), source.bytes - at);
    for (const piece of findDirty(allocation, dirty, told)) yield { ...piece, offset: at + piece.offset };
    at += told;
  }
}

/** Where both lists tell of dirty bytes, in pieces that are all zeros or may be copied at once. Pure. */
export function* findDirty(
  allocation: readonly Extent[],
  dirty: readonly Extent[],
  bytes: number,
): Generator<DirtyPiece> {
  const [zeros, marks] = [cursor(allocation), cursor(dirty)];
  for (let offset = 0; offset < bytes;) {
    const [{ flags: kind, until: a }, { flags: mark, until: b }] = [zeros(offset), marks(offset)];
    const end = Math.min(a, b, bytes);
    const zero = (kind & isZero) !== 0;
    const limit = zero ? zeroPieceBytes : pieceBytes;
    for (let at = offset; (mark & isDirty) !== 0 && at < end; at += limit)
      yield { offset: at, length: Math.min(limit, end - at), zero };
    offset = end;
  }
}

/** What a list says at offsets that only grow. */
function cursor(extents: readonly Extent[]): (offset: number) => { flags: number; until: number } {
  let [index, until] = [0, extents[0]?.length ?? Infinity];
  return (offset) => {
    while (until <= offset && index + 1 < extents.length) until += extents[++index]?.length ?? 0;
    return { flags: extents[index]?.flags ?? 0, until: until > offset ? until : Infinity };
  };
}

function lengthOf(extents: readonly Extent[]): number {
  return extents.reduce((sum, { length }) => sum + length, 0);
}
