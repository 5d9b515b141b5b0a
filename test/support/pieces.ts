/**
 * A stream cut into pieces, as a socket may deliver it.
 *
 * @param sizes of the pieces in bytes, one after the other and then over again
 */
export function piecesOf(stream: Buffer, sizes: readonly number[]): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0, turn = 0; at < stream.length; turn++) {
    const size = sizes[turn % sizes.length] ?? 1;
    pieces.push(stream.subarray(at, at + size));
    at += size;
  }
  return pieces;
}
