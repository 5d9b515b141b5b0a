/**
 * What containers printed, as their monitors write it: `<time> <stream> <F|P> <text>`, P for a part of a line that goes
 * on in the next.
 */
import { open } from "node:fs/promises";

export interface LogLine {
  readonly at: Date;
  readonly stream: string;
  readonly text: string;
}

const mostBytes = 1024 * 1024;

/** The last lines of the file, oldest first; none when nothing was printed. */
export async function readLog(path: string, lines: number): Promise<readonly LogLine[]> {
  return parseLog(await readTail(path)).slice(-lines);
}

/** Pure. The first line may be cut off, and is left out then. */
export function parseLog(text: string): readonly LogLine[] {
  const lines: LogLine[] = [];
  const open = new Map<string, LogLine>();
  for (const raw of text.split("\n")) {
    const match = /^(\S+) (stdout|stderr) ([FP]) (.*)$/.exec(raw);
    const [, time = "", stream = "", tag = "", part = ""] = match ?? [];
    const at = new Date(time);
    if (!match || Number.isNaN(at.getTime())) continue;
    const begun = open.get(stream);
    const line = begun ? { ...begun, text: begun.text + part } : { at, stream, text: part };
    if (tag === "P") open.set(stream, line);
    else {
      open.delete(stream);
      lines.push(line);
    }
  }
  return [...lines, ...open.values()];
}

async function readTail(path: string): Promise<string> {
  const file = await open(path, "r").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (!file) return "";
  await using _closed = file;
  const { size } = await file.stat();
  const length = Math.min(size, mostBytes);
  const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, size - length);
  return buffer.toString("utf8", 0, bytesRead);
}
