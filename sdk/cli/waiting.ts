/** Waiting for a resource with its progress shown. */
import type { Command } from "commander";
import type { Image, Instance } from "../kinds/generated.ts";
import type { KindTypes, Resource } from "../kinds/resource.ts";
import type { Collection } from "../collection.ts";
import { percentOf } from "./progress.ts";
import type { Session } from "./session.ts";
import { formatSize, parseDuration } from "./units.ts";

export interface WaitFlags {
  readonly wait?: true;
  readonly timeout?: number;
}

/** Adds `--wait` and `--timeout`. */
export function withWaiting(command: Command, until: string): Command {
  return command
    .option("--wait", `wait until ${until}`)
    .option("--timeout <duration>", "how long to wait (default: 5m)", parseDuration);
}

/** Waits, telling every stage; undefined when it is gone. */
export async function awaitPhases<K extends KindTypes>(
  session: Session,
  collection: Pick<Collection<K>, "waitFor">,
  resource: Resource<K>,
  phases: readonly K["phase"][],
  options: WaitFlags & { readonly describe?: (resource: Resource<K>) => Stage },
): Promise<Resource<K> | undefined> {
  using progress = session.progress();
  const describe = options.describe ?? ((each: Resource<K>): Stage => ({ stage: each.phase }));
  return collection.waitFor(resource.id, {
    phases,
    signal: session.signal,
    ...(options.timeout !== undefined && { timeoutMs: options.timeout }),
    onChange: (each) => {
      const { stage, detail } = describe(each);
      progress.update(`${each.name}: ${stage}`, detail);
    },
    onReconnect: ({ fault }) => progress.update(`${resource.name}: ${fault.message}; trying again`),
  });
}

export interface Stage {
  readonly stage: string;
  readonly detail?: string;
}

/** What an instance is about, as finely as its host tells. */
export function describeInstance(instance: Instance): Stage {
  const { phase, problem, status } = instance;
  if (problem) return { stage: `${phase}: ${problem.message}` };
  if (status?.state === "preparing" && status.image_bytes_done < status.image_bytes_total) {
    const { image_bytes_done: done, image_bytes_total: total } = status;
    return { stage: "downloading the image", detail: percentOf(done, total, formatSize(total)) };
  }
  return { stage: phase === "building" && status ? status.state : phase };
}

/** What an image is about. */
export function describeImage(image: Image): Stage {
  const { phase, problem, status } = image;
  if (problem) return { stage: `${phase}: ${problem.message}` };
  if (phase !== "pending" || !status) return { stage: phase };
  return {
    stage: "fetching",
    detail: percentOf(status.bytes_done, status.bytes_total, formatSize(status.bytes_total)),
  };
}
