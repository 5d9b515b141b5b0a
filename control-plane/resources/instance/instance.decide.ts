/** What an instance needs next, decided from what is known and nothing else. */
import type { Json } from "#kernel/fault.ts";
import type { Decision, Incarnation, View } from "../../engine/controller.ts";
import type { Resource } from "../definition.ts";
import { decideConclusion } from "./instance.conclude.ts";
import { decideLost } from "./instance.lost.ts";
import type { Instance, InstanceStatus } from "./instance.resource.ts";
import type { MigrateInput } from "./move.ts";

/** Reports wake the engine; this is for the one that got lost. */
const lookAgainMs = 30_000;
/** How often another host is tried when one could not build the instance after all. */
const createAttempts = 3;

/** Why a create was undone that another host may not share. */
const hostsFault = new Set(["NO_CAPACITY", "HOST_DISK_FULL", "HOST_NOT_CONNECTED", "TIMEOUT", "UNAVAILABLE"]);

export interface CreateInput {
  readonly attempt: number;
  /** Hosts that refused. */
  readonly exclude: readonly string[];
  readonly generation: number;
}

/** What the step `place` puts down. */
export interface PlacedOutput {
  readonly host_id: string;
}

export function decideInstance(view: View<Instance>, now: number): Decision {
  const { resource } = view;
  const conclusion = decideConclusion(view);
  if (conclusion) return { do: "act", action: "conclude", input: conclusion };
  if (resource.deletingAt) return { do: "act", action: hostsOf(view).length > 0 ? "remove" : "erase" };
  if (!resource.hostId) return decidePlacement(view, now);
  const early = decideLost(view, now) ?? decideSizes(view);
  if (early) return early;

  const owner = ownerOf(resource, view.incarnations);
  const reached = owner !== undefined && owner.generation >= resource.generation;
  if (reached)
    return isTrimmable(view, owner) ? { do: "act", action: "trim" } : decideMoves(view, owner, now);
  if (owner?.state === "absent" && owner.acceptedGeneration >= resource.generation) {
    return {
      do: "stick",
      reason: "MACHINE_LOST",
      message: "the host no longer has this machine; starting it makes a new one with an empty disk",
    };
  }
  const accepted = owner !== undefined && owner.acceptedGeneration >= resource.generation;
  if (!accepted) return { do: "act", action: "ensure" };
  if (owner.state === "failed") {
    const { reason, message } = owner.observed as unknown as InstanceStatus;
    return {
      do: "stick",
      reason: reason || "MACHINE_FAILED",
      message: message || "the host could not run it",
    };
  }
  return { do: "wait", until: now + lookAgainMs, why: "the host is working on it" };
}

/** With the instance as its owner wants it: what it left elsewhere goes, and then it may move. */
function decideMoves(
  { resource, incarnations, requests, reserved }: View<Instance>,
  owner: Incarnation,
  now: number,
): Decision {
  const stale = incarnations.filter(({ hostId }) => hostId !== resource.hostId);
  const there = stale.find(({ connected }) => connected);
  // Nothing is removed on the word of a host that does not have the instance itself.
  const safe = owner.state === "running" || owner.state === "stopped";
  if (there && safe) return { do: "act", action: "removeStale", input: { host_id: there.hostId } };
  // Its host has told that nothing is left; whoever was to give the promise back for it was not there to do so.
  const owed = reserved.find((promise) => ![resource, ...stale].some((on) => on.hostId === promise.hostId));
  if (owed) return { do: "act", action: "release", input: { host_id: owed.hostId } };
  const [next] = requests;
  if (next) {
    return {
      do: "start",
      operation: "migrate",
      input: { migration: next.id, generation: resource.generation } satisfies MigrateInput as Json,
    };
  }
  if (stale.length === 0) return { do: "settle" };
  return { do: "wait", until: now + lookAgainMs, why: "a host that has an old copy is away" };
}

function decidePlacement(view: View<Instance>, now: number): Decision {
  return (view.resource.desired.adopted ? undefined : decideImage(view, now)) ?? decideCreate(view);
}

/** What its image has against making it now. */
function decideImage({ references }: View<Instance>, now: number): Decision | undefined {
  const image = references["image"];
  if (!image) return { do: "stick", reason: "IMAGE_GONE", message: "the image no longer exists" };
  if (image.phase === "failed") {
    return {
      do: "stick",
      reason: "IMAGE_FAILED",
      message: image.problem?.message ?? "the image cannot be had",
    };
  }
  if (image.phase !== "available") {
    const { reason, message } = image.problem ?? {};
    const problem =
      reason && message ? { problem: { reason, message: `image ${image.name}: ${message}` } } : {};
    return { do: "wait", until: now + lookAgainMs, why: "the image is being made available", ...problem };
  }
  return undefined;
}

function decideCreate({ resource, lastOperation }: View<Instance>): Decision {
  const failed =
    lastOperation?.name === "create" && lastOperation.status !== "done" ? lastOperation : undefined;
  const tried = failed?.input as unknown as CreateInput | undefined;
  if (!failed || !tried || tried.generation !== resource.generation) return startCreate(resource, 1, []);
  const { reason = "INTERNAL", message = "it could not be created" } = failed.error ?? {};
  if (!hostsFault.has(reason) || tried.attempt >= createAttempts) return { do: "stick", reason, message };
  const placed = failed.outputs["place"] as unknown as PlacedOutput | undefined;
  return startCreate(
    resource,
    tried.attempt + 1,
    placed ? [...tried.exclude, placed.host_id] : tried.exclude,
  );
}

function startCreate(resource: Instance, attempt: number, exclude: readonly string[]): Decision {
  return { do: "start", operation: "create", input: { attempt, exclude, generation: resource.generation } };
}

/** More than was promised needs a new promise first; less is given back once the machine has shrunk. */
function decideSizes({ resource, reserved, lastOperation }: View<Instance>): Decision | undefined {
  const { cpus, memory_bytes, disk_bytes } = resource.desired;
  const promise = reserved.find(({ hostId }) => hostId === resource.hostId);
  const covered =
    promise !== undefined &&
    promise.cpus >= cpus &&
    promise.memoryBytes >= memory_bytes &&
    promise.diskBytes >= disk_bytes;
  if (covered) return undefined;
  const failed =
    lastOperation?.name === "resize" && lastOperation.status !== "done" ? lastOperation : undefined;
  if (failed && (failed.input as { generation?: number }).generation === resource.generation) {
    const { reason = "INTERNAL", message = "it could not be resized" } = failed.error ?? {};
    return { do: "stick", reason, message };
  }
  return { do: "start", operation: "resize", input: { generation: resource.generation } };
}

function isTrimmable({ resource, reserved }: View<Instance>, owner: Incarnation): boolean {
  const promise = reserved.find(({ hostId }) => hostId === resource.hostId);
  const real = owner.observed as unknown as InstanceStatus;
  if (!promise) return false;
  const { cpus, memoryBytes } = neededFor(resource, real);
  return promise.cpus > cpus || promise.memoryBytes > memoryBytes;
}

/** What the promise must cover: the larger of what is wanted and what the machine still has. */
export function neededFor(
  { desired }: Instance,
  real: InstanceStatus | undefined,
): { readonly cpus: number; readonly memoryBytes: number; readonly diskBytes: number } {
  const runs = real !== undefined && real.state !== "stopped";
  return {
    cpus: Math.max(desired.cpus, runs ? real.cpus : 0),
    memoryBytes: Math.max(desired.memory_bytes, runs ? real.memory_bytes : 0),
    diskBytes: desired.disk_bytes,
  };
}

/** Every host that may hold something of it. */
export function hostsOf({ resource, incarnations, reserved }: View): readonly string[] {
  const ids = [...incarnations, ...reserved].map(({ hostId }) => hostId);
  return [...new Set(resource.hostId ? [resource.hostId, ...ids] : ids)];
}

export function ownerOf(resource: Resource, incarnations: readonly Incarnation[]): Incarnation | undefined {
  return incarnations.find(({ hostId }) => hostId === resource.hostId);
}

/** What hosts tell for each other only. */
interface HostsOwn {
  readonly move?: unknown;
  readonly guest_shape?: unknown;
  readonly guest_model?: unknown;
  readonly disk_baseline?: unknown;
  readonly lease_terms?: unknown;
  readonly move_blocker?: unknown;
}

/** A migration shows from when it has begun: until then its instance does what it did. */
function underWay(requests: readonly Resource[]): string | null {
  return requests.find(({ observed }) => observed !== undefined)?.id ?? null;
}

/** The status that users see is what the owning host says; a copy elsewhere is none of their business. */
export function deriveInstanceObserved(
  resource: Instance,
  incarnations: readonly Incarnation[],
  requests: readonly Resource[],
): { readonly observed: InstanceStatus; readonly generation: number } | undefined {
  const owner = ownerOf(resource, incarnations);
  if (!owner) return undefined;
  const {
    move: _move,
    guest_shape: _shape,
    guest_model: _model,
    disk_baseline: _baseline,
    lease_terms: _terms,
    move_blocker: _blocker,
    ...machine
  } = owner.observed as unknown as InstanceStatus & HostsOwn;
  const status: InstanceStatus = { ...machine, host_id: owner.hostId, migration: underWay(requests) };
  if (owner.state !== "absent") return { observed: status, generation: owner.generation };
  const lost = {
    state: "failed",
    reason: "MACHINE_LOST",
    message: "the host no longer has this machine",
  } as const;
  return { observed: { ...status, ...lost }, generation: owner.generation };
}
