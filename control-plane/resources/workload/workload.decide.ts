/** What a workload needs next, decided from what is known and nothing else. Retrying forward is always right. */
import type { Decision, Incarnation, View } from "../../engine/controller.ts";
import { hostsOf, ownerOf } from "../instance/instance.decide.ts";
import type { Workload, WorkloadStatus } from "./workload.resource.ts";

/** Reports wake the engine; this is for the one that got lost. */
const lookAgainMs = 30_000;

export function decideWorkload(view: View<Workload>, now: number): Decision {
  const { resource, reserved } = view;
  if (resource.deletingAt) return { do: "act", action: hostsOf(view).length > 0 ? "remove" : "erase" };
  if (!resource.hostId) return decideImage(view, now) ?? { do: "act", action: "place" };
  const owner = ownerOf(resource, view.incarnations);
  if (owner && !owner.connected) {
    if (resource.desired.on_disconnect === "replace") return { do: "act", action: "place" };
    return { do: "wait", until: now + lookAgainMs, why: "its host is cut off; it runs on there" };
  }
  const promise = reserved.find(({ hostId }) => hostId === resource.hostId);
  const { cpus, memory_bytes, disk_bytes } = resource.desired;
  if (promise?.cpus !== cpus || promise.memoryBytes !== memory_bytes || promise.diskBytes !== disk_bytes) {
    return { do: "act", action: "reserve" };
  }
  const accepted = owner && owner.state !== "absent" && owner.acceptedGeneration >= resource.generation;
  // A container that its host has lost is made anew: there was nothing in it to lose.
  if (!accepted) return { do: "act", action: "ensure" };
  if (owner.generation >= resource.generation) return decideStale(view, owner, now);
  if (owner.state === "failed") {
    const { reason, message } = owner.observed as unknown as WorkloadStatus;
    return {
      do: "stick",
      reason: reason || "WORKLOAD_FAILED",
      message: message || "the host could not run it",
    };
  }
  return { do: "wait", until: now + lookAgainMs, why: "the host is working on it" };
}

/** What it left on a host that was cut off goes when that is back. */
function decideStale({ resource, incarnations }: View<Workload>, owner: Incarnation, now: number): Decision {
  const stale = incarnations.filter(({ hostId }) => hostId !== resource.hostId);
  const there = stale.find(({ connected }) => connected);
  const safe = owner.state === "running" || owner.state === "stopped";
  if (there && safe) return { do: "act", action: "removeStale", input: { host_id: there.hostId } };
  if (stale.length === 0) return { do: "settle" };
  return { do: "wait", until: now + lookAgainMs, why: "a host that has an old copy is away" };
}

/** What its image, where it is one of this cloud's, has against making it now. */
function decideImage({ resource, references }: View<Workload>, now: number): Decision | undefined {
  if (resource.refs["image"] === undefined) return undefined;
  const image = references["image"];
  if (!image) return { do: "stick", reason: "IMAGE_GONE", message: "the image no longer exists" };
  if (image.phase === "available") return undefined;
  const problem = { reason: "IMAGE_NOT_READY", message: `image ${image.name} is ${image.phase}` };
  return { do: "wait", until: now + lookAgainMs, why: "the image has no content yet", problem };
}

/** In the words of containers: the machinery below speaks of machines. */
const words: Readonly<Record<string, readonly [reason: string, message: string]>> = {
  GUEST_POWERED_OFF: ["COMPLETED", "it has ended by itself"],
  CRASHED: ["FAILED", "it has failed"],
  CRASH_LOOP: ["CRASH_LOOP", "it ended again and again within a short while"],
};

/** The status that users see is what the owning host says; a copy elsewhere is none of their business. */
export function deriveWorkloadObserved(
  resource: Workload,
  incarnations: readonly Incarnation[],
): { readonly observed: WorkloadStatus; readonly generation: number } | undefined {
  const owner = ownerOf(resource, incarnations);
  if (!owner || owner.state === "absent") return undefined;
  return { observed: toStatus(owner), generation: owner.generation };
}

/** What the host says of a container, as `engine/machine.ts` keeps it. */
interface Told extends Pick<
  WorkloadStatus,
  "state" | "reason" | "message" | "started_at" | "restarts" | "crashes"
> {
  readonly driver: string;
  readonly forwards: readonly {
    readonly protocol: string;
    readonly guest_port: number;
    readonly host_port: number;
    readonly host_address: string;
  }[];
  readonly container?: {
    readonly health: string;
    readonly exit_code: number | null;
    readonly gpus?: readonly string[];
    readonly missing_gpus?: readonly string[];
  };
}

function toStatus({ hostId, observed }: Incarnation): WorkloadStatus {
  const told = observed as unknown as Told;
  const { health = "", exit_code = null, gpus, missing_gpus: missing = [] } = told.container ?? {};
  const [reason, message] = words[told.reason] ?? gpuGone(told, missing) ?? [told.reason, told.message];
  const ended = exit_code === null || message === told.message ? "" : ` (exit code ${String(exit_code)})`;
  return {
    host_id: hostId,
    state: told.state,
    reason,
    message: `${message}${ended}`,
    health: health === "starting" || health === "healthy" || health === "unhealthy" ? health : null,
    exit_code,
    ports: told.forwards.map(({ guest_port, ...port }) => ({ ...port, container_port: guest_port })),
    started_at: told.started_at,
    restarts: told.restarts,
    crashes: told.crashes,
    ...(gpus && { gpus: [...gpus] }),
    engine: told.driver,
  };
}

/** One that runs on although a device of its own is there no more may not do its work. */
function gpuGone({ reason }: Told, missing: readonly string[]): readonly [string, string] | undefined {
  if (missing.length === 0 || reason !== "") return undefined;
  return [
    "GPU_GONE",
    `its host no longer has ${missing.join(" and ")}; its next start takes another that is free`,
  ];
}
