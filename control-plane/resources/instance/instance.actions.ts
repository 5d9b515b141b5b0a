/** The few effects on hosts. Each may run twice and is fenced where it lands. */
import { Fault } from "#kernel/fault.ts";
import type { Action, Effects, MachineObservation, View } from "../../engine/controller.ts";
import { toObservation } from "../../engine/machine.ts";
import type { Image } from "../image/image.resource.ts";
import { hostsOf, neededFor, ownerOf } from "./instance.decide.ts";
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
  const { resource } = view;
  const image = view.references["image"] as Image | undefined;
  if (!image) throw new Fault("conflict", "the image no longer exists", { reason: "IMAGE_GONE" });
  const spec = toMachineSpec(resource, image);
  const request = { id: resource.id, fence: effects.nextFence(), spec, waitMs: ensureWaitMs };
  return toObservation(await effects.agents.ensureMachine(hostId, request, effects.signal));
}

/** True when the host has confirmed that nothing of the instance is left there. */
export function removeFromHost(
  effects: Effects,
  { resource }: View<Instance>,
  hostId: string,
): Promise<boolean> {
  const request = { id: resource.id, fence: effects.nextFence(), waitMs: removeWaitMs };
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
  for (const hostId of hosts) {
    if (!(await removeFromHost(effects, view, hostId))) {
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

export const instanceActions = { ensure, remove, erase, trim };
