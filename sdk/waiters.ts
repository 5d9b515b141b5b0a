/** Waiting until a resource is where it should be. */
import { Fault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";
import type { KindInfo, KindTypes, Resource } from "./kinds/resource.ts";
import { watchResources, type WatchOptions } from "./watch.ts";
import type { Transport } from "./transport.ts";

export interface WaitOptions<K extends KindTypes> extends WatchOptions {
  /** Phases to wait for. Default: any in which nothing is under way. */
  readonly phases?: readonly K["phase"][];
  /** Default 5 minutes. */
  readonly timeoutMs?: number;
  /** Called with every state on the way. */
  readonly onChange?: (resource: Resource<K>) => void;
}

/**
 * Waits until the resource has settled in one of the wanted phases, and gives it; undefined when it is
 * gone. Throws `conflict` when it settles elsewhere, with the reason and words of its own problem, and
 * `unavailable` with reason TIMEOUT when time runs out.
 */
export async function waitFor<K extends KindTypes>(
  transport: Transport,
  info: KindInfo,
  id: string,
  options: WaitOptions<K> = {},
): Promise<Resource<K> | undefined> {
  using limit = deadline(options.timeoutMs ?? 300_000, `waiting for ${id}`, options.signal);
  const target = { path: `/skerry/v1/${info.plural}/${encodeURIComponent(id)}`, query: {} };
  let seen = false;
  try {
    for await (const event of watchResources<K>(transport, target, { ...options, signal: limit })) {
      if (event.type === "removed") return undefined;
      if (event.type === "synced") {
        if (!seen) return undefined;
        continue;
      }
      seen = true;
      options.onChange?.(event.resource);
      if (hasArrived(event.resource, info, options.phases)) return event.resource;
    }
  } catch (thrown) {
    if (thrown instanceof Fault && thrown.code === "notFound") return undefined;
    throw thrown;
  }
  return undefined;
}

/** True when it is where it is waited for; throws when it has come to rest somewhere else. */
function hasArrived<K extends KindTypes>(
  resource: Resource<K>,
  info: KindInfo,
  phases: readonly K["phase"][] | undefined,
): boolean {
  const caughtUp = resource.observed_generation >= resource.generation;
  const { phase, problem } = resource;
  if (phases?.includes(phase) && (caughtUp || !info.settled.includes(phase))) return true;
  // A problem with what was wanted before says nothing about what is wanted now.
  const stuck =
    phase === "failed" || (problem !== null && problem.stuck && problem.generation >= resource.generation);
  if (!stuck && !(caughtUp && info.settled.includes(phase))) return false;
  if (!phases && !stuck) return true;
  const complaint = problem ?? errorOf(resource.status);
  throw new Fault("conflict", `${resource.name} is ${phase}${complaint ? `: ${complaint.message}` : ""}`, {
    reason: complaint?.reason ?? "UNEXPECTED_PHASE",
    detail: { id: resource.id, phase },
  });
}

/** What a status itself says went wrong, as those of requests do (see migrations). */
function errorOf(status: unknown): { readonly reason: string; readonly message: string } | undefined {
  const { error } = (status ?? {}) as { error?: { reason?: unknown; message?: unknown } | null };
  return typeof error?.reason === "string" && typeof error.message === "string"
    ? { reason: error.reason, message: error.message }
    : undefined;
}
