import path from "node:path";
import type { Argv } from "#cp/local/child.ts";

/** A program of the benchmarks' own, from its source beside this file; it reads `options` by {@link readOptions}. */
export function helperProgram(name: string, options: object): Argv {
  const file = path.join(import.meta.dirname, `${name}.ts`);
  return [process.execPath, "--import=tsx", file, JSON.stringify(options)];
}

/** What the parent gave to this program. */
export function readOptions<T>(): T {
  return JSON.parse(process.argv[2] ?? "{}") as T;
}
