import { watch } from "node:fs/promises";
import path from "node:path";
import { sleep } from "#kernel/retry.ts";

export type ChangedPart = "control-plane" | "agent";

/** Editors write a file in several steps, and a switch of branches changes hundreds. */
const settleMs = 250;

/** Calls back with the parts whose sources changed, until the signal aborts. */
export async function watchSources(
  root: string,
  changed: (parts: ReadonlySet<ChangedPart>) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const folders: readonly [string, readonly ChangedPart[]][] = [
    ["control-plane", ["control-plane"]],
    ["agent", ["agent"]],
    ["proto", ["control-plane", "agent"]],
  ];
  let pending = new Set<ChangedPart>();
  let turn: Promise<void> | undefined;
  const settle = async () => {
    while (pending.size > 0) {
      await sleep(settleMs, signal);
      const parts = pending;
      pending = new Set();
      await changed(parts);
    }
    turn = undefined;
  };
  const follow = async (folder: string, parts: readonly ChangedPart[]) => {
    for await (const { filename } of watch(path.join(root, folder), { recursive: true, signal })) {
      if (!/\.(ts|js|sql)$/.test(filename ?? "")) continue;
      for (const part of parts) pending.add(part);
      turn ??= settle();
    }
  };
  try {
    await Promise.all(folders.map(([folder, parts]) => follow(folder, parts)));
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
