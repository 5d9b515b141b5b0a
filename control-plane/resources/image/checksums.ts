/** Lists of checksums as the distributions publish them. */
import { Fault } from "#kernel/fault.ts";

export interface Checksum {
  readonly algorithm: "sha256" | "sha512";
  readonly hex: string;
}

/**
 * Finds a file's checksum. Knows the lines of sha256sum(1) (`<hex>  name`, `<hex> *name`), the BSD form
 * (`SHA256 (name) = <hex>`), and a file that holds nothing but one checksum.
 */
export function findChecksum(list: string, fileName: string): Checksum {
  const lines = list.split(/\r?\n/).map((line) => line.trim());
  const found =
    lines.map(parseLine).find((line) => line?.name === fileName)?.hex ??
    (lines.filter((line) => line !== "").length === 1 ? /^[0-9a-f]+$/i.exec(list.trim())?.[0] : undefined);
  const checksum = found === undefined ? undefined : toChecksum(found);
  if (checksum) return checksum;
  throw new Fault("invalid", `the list of checksums has none for ${fileName}`, {
    reason: "IMAGE_CHECKSUM_MISSING",
    detail: { file: fileName },
  });
}

function parseLine(line: string): { readonly name: string; readonly hex: string } | undefined {
  const plain = /^([0-9a-f]{64,128}) [ *]?(?:\.\/)?(\S+)$/i.exec(line);
  if (plain?.[1] && plain[2]) return { hex: plain[1], name: plain[2] };
  const bsd = /^SHA(?:256|512) \(([^)]+)\) = ([0-9a-f]+)$/i.exec(line);
  return bsd?.[1] && bsd[2] ? { name: bsd[1], hex: bsd[2] } : undefined;
}

function toChecksum(hex: string): Checksum | undefined {
  if (hex.length === 64) return { algorithm: "sha256", hex: hex.toLowerCase() };
  if (hex.length === 128) return { algorithm: "sha512", hex: hex.toLowerCase() };
  return undefined;
}
