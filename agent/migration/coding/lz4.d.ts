declare module "lz4" {
  /** Gives the length of the block in `output`; 0 when it does not fit. */
  export function encodeBlock(input: Buffer, output: Buffer): number;
  /** Gives the length of what came out; below 0 when the block is damaged. */
  export function decodeBlock(input: Buffer, output: Buffer): number;
  const lz4: { readonly encodeBlock: typeof encodeBlock; readonly decodeBlock: typeof decodeBlock };
  export default lz4;
}
