/** Work whose half-done state must be undone: creating with a promise of capacity, and growing. */
import { Fault } from "#kernel/fault.ts";
import type {
  Effects,
  Incarnation,
  MachineObservation,
  Operation,
  Step,
  StepResult,
  View,
  Writes,
} from "../../engine/controller.ts";
import { removeFromHost, tellHost } from "./instance.actions.ts";
import { ownerOf, neededFor, type PlacedOutput } from "./instance.decide.ts";
import { migrateOperation } from "./instance.migrate.ts";
import { place } from "./instance.place.ts";
import type { Instance, InstanceStatus } from "./instance.resource.ts";

const lookAgainMs = 15_000;
/** A download over a slow line takes its time; after this it is given up. */
const provisionLimitMs = 2 * 3600_000;

const provision: Step<Instance> = {
  name: "provision",
  async run(effects, view, operation) {
    const hostId = placedOn(view.resource);
    if (effects.now() - operation.createdAt.getTime() > provisionLimitMs) {
      throw new Fault("conflict", "the host did not get it running in time", { reason: "PROVISION_TIMEOUT" });
    }
    return converge(effects, view, hostId);
  },
  async undo(effects, view, operation) {
    const hostId =
      view.resource.hostId ?? (operation.outputs["place"] as unknown as PlacedOutput | undefined)?.host_id;
    if (!hostId) return { done: null };
    if (!(await removeFromHost(effects, view, hostId))) {
      return { wait: effects.now() + lookAgainMs, why: "the host is removing what it had begun" };
    }
    return { done: null, commit: (writes) => writes.forgetIncarnation(hostId) };
  },
};

/** Sees to it that the host has this generation's intent, then waits until it has got there. */
async function converge(effects: Effects, view: View<Instance>, hostId: string): Promise<StepResult> {
  const { resource } = view;
  const owner = ownerOf(resource, view.incarnations);
  const accepted =
    owner !== undefined && owner.acceptedGeneration >= resource.generation && owner.state !== "absent";
  const answer = accepted ? owner : await tellHost(effects, view, hostId);
  if (answer.generation >= resource.generation) {
    return { done: null, commit: (writes) => storeAnswer(writes, hostId, answer) };
  }
  if (!accepted) await effects.write((writes) => storeAnswer(writes, hostId, answer));
  if (answer.state === "failed") {
    const { reason, message } = answer.observed as unknown as InstanceStatus;
    throw new Fault("conflict", message || "the host could not run it", {
      reason: reason || "MACHINE_FAILED",
    });
  }
  return { wait: effects.now() + lookAgainMs, why: "the host is working on it" };
}

async function storeAnswer(
  writes: Writes,
  hostId: string,
  answer: MachineObservation | Incarnation,
): Promise<void> {
  if ("id" in answer) await writes.observeMachine(hostId, answer);
}

function placedOn({ hostId }: Instance): string {
  if (!hostId) throw new Fault("internal", "the instance has no host");
  return hostId;
}

/** Promises more before the host is asked for more. */
const promise: Step<Instance> = {
  name: "promise",
  effectFree: true,
  async run(_effects, { resource, incarnations, reserved }) {
    const hostId = placedOn(resource);
    const before = reserved.find((entry) => entry.hostId === hostId);
    const real = ownerOf(resource, incarnations)?.observed as unknown as InstanceStatus | undefined;
    const needed = neededFor(resource, real);
    return {
      done: before ? { ...before } : null,
      commit: (writes) => writes.reserve({ hostId, ...needed }),
    };
  },
  async undo(_effects, _view, _operation, output) {
    const before = output as
      { hostId: string; cpus: number; memoryBytes: number; diskBytes: number } | null | undefined;
    return { done: null, commit: async (writes) => void (before && (await writes.reserve(before))) };
  },
};

const apply: Step<Instance> = {
  name: "apply",
  run: (effects, view) => converge(effects, view, placedOn(view.resource)),
};

export const instanceOperations: readonly Operation<Instance>[] = [
  migrateOperation,
  { name: "create", version: 1, steps: [place, provision] },
  { name: "resize", version: 1, steps: [promise, apply] },
];
