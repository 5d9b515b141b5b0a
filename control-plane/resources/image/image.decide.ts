/** What an image needs next, decided from what is known and nothing else. */
import type { Decision, View } from "../../engine/controller.ts";
import { isCatalogueImage } from "./catalogue.ts";
import type { Resource } from "../definition.ts";
import type { Image } from "./image.resource.ts";

const lookAgainMs = 60_000;
/** Nobody tells an image what becomes of the instance that it is to be made of. */
const instanceAgainMs = 2_000;
/** How often a long download shows how far it has come. */
export const progressEveryMs = 2_000;

export function decideImage({ resource, dependents, references }: View<Image>, now: number): Decision {
  if (resource.deletingAt) {
    if (dependents === 0) return { do: "act", action: "erase" };
    return { do: "wait", until: now + lookAgainMs, why: "instances still use it" };
  }
  const complete = resource.observed !== undefined && resource.observed.files.length > 0;
  if (complete) {
    const told = resource.observedGeneration >= resource.generation;
    return told ? { do: "settle" } : { do: "act", action: "confirm" };
  }
  switch (resource.desired.source.type) {
    case "built-in":
      return { do: "act", action: "confirm" };
    case "upload":
      return { do: "settle" };
    case "url":
      return decideResolve(resource, dependents, now);
    case "instance":
      return decideCapture(resource, references["instance"], now);
  }
}

/** The catalogue is long and most of it never used: its images are looked up when somebody wants one. */
function decideResolve(resource: Image, dependents: number, now: number): Decision {
  if (isCatalogueImage(resource.id) && dependents === 0) return { do: "settle" };
  return readFurther(resource, "resolve", now);
}

/** A disk is copied where it is, while nobody moves it; what is done to the instance besides comes first. */
function decideCapture(resource: Image, instance: Resource | undefined, now: number): Decision {
  if (!instance || instance.deletingAt) {
    return {
      do: "stick",
      reason: "INSTANCE_GONE",
      message: "the instance was deleted before its disk was copied",
    };
  }
  if (instance.phase === "running" || instance.phase === "stopped")
    return readFurther(resource, "capture", now, instance.hostId);
  const why = `the instance is ${instance.phase}`;
  const problem = {
    reason: "INSTANCE_BUSY",
    message: `${why}: its disk is copied when it runs or has stopped`,
  };
  return { do: "wait", until: now + instanceAgainMs, why, problem };
}

/** @param hostId whose replica reads on */
function readFurther(resource: Image, action: "resolve" | "capture", now: number, hostId?: string): Decision {
  const progressUntil = resource.observed ? resource.updatedAt.getTime() + progressEveryMs : now;
  if (now < progressUntil)
    return { do: "wait", until: progressUntil, why: "the image is being read", hostId };
  return { do: "act", action };
}
