import { readFile } from "node:fs/promises";

/** The version of Skerry that this agent is part of. */
export async function findAgentVersion(): Promise<string> {
  // The build lies one folder deeper than the sources.
  const top = import.meta.url.endsWith(".ts") ? "../../package.json" : "../../../package.json";
  const text = await readFile(new URL(top, import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
