/** Takes an instance from a host that is lost and makes it anew, from its image, on one that has nothing of it. */
import { Fault, isFault } from "#kernel/fault.ts";
import type { Action } from "../../engine/controller.ts";
import type { Image } from "../image/image.resource.ts";
import { placementRequest, reserveFirst } from "./instance.place.ts";
import type { Instance } from "./instance.resource.ts";

export const restartElsewhere: Action<Instance> = async (effects, view) => {
  const { resource, incarnations, references } = view;
  const { hostId: lost } = resource;
  if (!lost) return;
  const request = placementRequest(resource, references["image"] as Image | undefined);
  const choice = await effects.choose({
    ...request,
    capability: "lease",
    exclude: new Set([lost, ...incarnations.map(({ hostId }) => hostId)]),
    seed: `${resource.id}/${lost}`,
  });
  if ("unplaceable" in choice) throw noRoom(choice.why);
  await effects
    .write(async (writes) => {
      const host = await reserveFirst(writes, choice.hosts, request);
      const { id: host_id, provider, region, zone } = host;
      const { explanation } = choice;
      await writes.takeFromLost(lost, { host_id, provider, region, zone, explanation });
      await writes.setProblem(undefined);
    })
    .catch((error: unknown) => {
      throw isFault(error, "exhausted") ? noRoom(error.message) : error;
    });
  effects.log.warn("instance.taken-from-lost", { instance: resource.id, lost });
};

/** Passes: it is tried again for as long as the host is lost. */
function noRoom(why: string): Fault {
  return new Fault("unavailable", `its host is lost, and no other can take it: ${why}`, {
    reason: "NO_HOST_LEFT",
  });
}
