import type { Controller } from "../../engine/controller.ts";
import type { Host } from "./host.resource.ts";

const lookAgainMs = 15_000;

/** A host is observed by its connection and its reports; the engine only sees it off. */
export const hostController: Controller<Host> = {
  kind: "host",
  decide({ resource, dependents }, now) {
    if (!resource.deletingAt) return { do: "settle" };
    if (dependents > 0) return { do: "wait", until: now + lookAgainMs, why: "instances are still on it" };
    return { do: "act", action: "erase" };
  },
  actions: { erase: (effects) => effects.write((writes) => writes.erase()) },
  operations: [],
};
