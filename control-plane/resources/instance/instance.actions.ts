/** The few effects on hosts. Each may run twice and is fenced where it lands. */
import type { AdoptionEnd, MachineSpec } from "#gen/skerry/agent/v1/machine_pb.js";
import { Fault } from "#kernel/fault.ts";
import { keepDisksSeconds } from "../../agents/port.ts";
import type { Action, Effects, MachineObservation, View } from "../../engine/controller.ts";
import { toObservation } from "../../engine/machine.ts";
import type { Image } from "../image/image.resource.ts";
import type { Migration } from "../migration/migration.resource.ts";
import { adoptionEndOf } from "./instance.adopt.ts";
import { concludedStatus, type Conclusion } from "./instance.conclude.ts";
import { hostsOf, neededFor, ownerOf } from "./instance.decide.ts";
import { restartElsewhere } from "./instance.restart.ts";
import type { Instance, InstanceStatus } from "./instance.resource.ts";
import { toMachineSpec } from "./machine-spec.ts";

/** Most changes are done in this; the rest is told by reports. */
const ensureWaitMs = 2_000;
const removeWaitMs = 5_000;

/** Hands the host the newest intent and gives its answer. */
export async function tellHost(
  effects: Effects,
  view: View<Instance>,
  hostId: string,
): Promise<MachineObservation> {
  return sendSpec(effects, view, hostId, specOf(view), ensureWaitMs);
}

/** What a host is to run for the instance as its owner wants it. */
export function specOf({ resource, references }: View<Instance>): MachineSpec {
  const image = references["image"] as Image | undefined;
  if (!image && !resource.desired.adopted)
    throw new Fault("conflict", "the image no longer exists", { reason: "IMAGE_GONE" });
  return toMachineSpec(resource, image);
}

/** Hands a host an intent, above all that came before, and gives its answer. */
export async function sendSpec(
  effects: Effects,
  { resource }: Pick<View, "resource">,
  hostId: string,
  spec: MachineSpec,
  waitMs: number,
): Promise<MachineObservation> {
  const request = { id: resource.id, fence: effects.nextFence(), spec, waitMs };
  return toObservation(await effects.agents.ensureMachine(hostId, request, effects.signal));
}

/**
 * True when the host has confirmed that nothing of the instance is left there. What was adopted is handed back as it is,
 * unless an end is given.
 */
export function removeFromHost(
  effects: Effects,
  { resource }: Pick<View, "resource">,
  hostId: string,
  how: { readonly keepDisksSeconds?: number; readonly adoptionEnd?: AdoptionEnd } = {},
): Promise<boolean> {
  const request = { id: resource.id, fence: effects.nextFence(), waitMs: removeWaitMs, ...how };
  return effects.agents.removeMachine(hostId, request, effects.signal);
}

const ensure: Action<Instance> = async (effects, view) => {
  const { hostId } = view.resource;
  if (!hostId) return;
  const answer = await tellHost(effects, view, hostId);
  await effects.write((writes) => writes.observeMachine(hostId, answer));
};

const remove: Action<Instance> = async (effects, view) => {
  const hosts = hostsOf(view);
  const adoptionEnd = adoptionEndOf(view.resource);
  for (const hostId of hosts) {
    if (!(await removeFromHost(effects, view, hostId, { adoptionEnd }))) {
      throw new Fault("unavailable", "the host is still removing it", { reason: "REMOVAL_GOES_ON" });
    }
  }
  await effects.write((writes) => writes.erase());
};

const erase: Action<Instance> = (effects) => effects.write((writes) => writes.erase());

/** Gives back what the machine no longer needs. */
const trim: Action<Instance> = async (effects, { resource, incarnations }) => {
  const { hostId } = resource;
  if (!hostId) return;
  const real = ownerOf(resource, incarnations)?.observed as unknown as InstanceStatus | undefined;
  await effects.write((writes) => writes.reserve({ hostId, ...neededFor(resource, real) }));
};

/** Removes a copy that is no longer the instance's, on the host that it moved away from. */
const removeStale: Action<Instance> = async (effects, view, input) => {
  const { host_id: hostId } = input as { readonly host_id: string };
  if (!(await removeFromHost(effects, view, hostId, { keepDisksSeconds }))) {
    throw new Fault("unavailable", "the host is still removing its old copy", { reason: "REMOVAL_GOES_ON" });
  }
  await effects.write(async (writes) => {
    await writes.release(hostId);
    await writes.forgetIncarnation(hostId);
  });
};

/** Gives a promise back on a host that has nothing of it any more. */
const release: Action<Instance> = async (effects, _view, input) => {
  const { host_id: hostId } = input as { readonly host_id: string };
  await effects.write((writes) => writes.release(hostId));
};

/** Ends a migration that was not carried through, with what became of it. */
const conclude: Action<Instance> = async (effects, view, input) => {
  const { migration, reason, message } = input as unknown as Conclusion;
  const request = view.requests.find(({ id }) => id === migration);
  if (!request) return;
  const status = concludedStatus(view, request as Migration, { reason, message }, effects.now());
  await effects.write((writes) => writes.changeRequest(migration, () => status));
};

export const instanceActions = {
  ...{ ensure, remove, erase, trim, removeStale, release, conclude },
  restartElsewhere,
};
