/** Work whose half-done state must be undone: creating with a promise of capacity, and growing. */
import { Fault, isFault } from "#kernel/fault.ts";
import type {
  Effects,
  Incarnation,
  MachineObservation,
  Operation,
  OperationRecord,
  Step,
  StepResult,
  View,
  Writes,
} from "../../engine/controller.ts";
import type { HostSnapshot } from "../../scheduler/snapshot.ts";
import type { Image } from "../image/image.resource.ts";
import { placeAdopted } from "./instance.adopt.ts";
import { removeFromHost, tellHost } from "./instance.actions.ts";
import { ownerOf, neededFor, type CreateInput, type PlacedOutput } from "./instance.decide.ts";
import { migrateOperation } from "./instance.migrate.ts";
import type { Instance, InstanceStatus } from "./instance.resource.ts";

const lookAgainMs = 15_000;
/** A download over a slow line takes its time; after this it is given up. */
const provisionLimitMs = 2 * 3600_000;
/** Agents are back within half a minute of a restart of theirs or ours; a host away for longer is lost. */
const hostsBackLimitMs = 10 * 60_000;
const hostsBackPauseMs = { least: 500, most: 15_000 };

const place: Step<Instance> = {
  name: "place",
  effectFree: true,
  async run(effects, { resource, references }, operation) {
    const { adopted } = resource.desired;
    if (adopted) return placeAdopted(effects, resource, adopted);
    const { exclude } = operation.input as unknown as CreateInput;
    const { cpus, memory_bytes, disk_bytes, provider, region } = resource.desired;
    const amounts = { cpus, memoryBytes: memory_bytes, diskBytes: disk_bytes };
    const image = references["image"] as Image | undefined;
    const choice = await effects.choose({
      ...amounts,
      provider: provider ?? undefined,
      region: region ?? undefined,
      imageArchitecture: image?.desired.architecture ?? "x86_64",
      exclude: new Set(exclude),
      seed: operation.id,
    });
    if ("unplaceable" in choice) {
      if (choice.offlineWouldDo && effects.now() - operation.createdAt.getTime() < hostsBackLimitMs) {
        return awaitHosts(effects, resource, operation, choice.why);
      }
      throw new Fault("exhausted", `no host can take it: ${choice.why}`, {
        reason: "NO_HOST",
        detail: { explanation: choice.unplaceable },
      });
    }
    const host = await promiseFirst(effects, choice.hosts, amounts);
    return {
      done: { host_id: host.id } satisfies PlacedOutput,
      commit: async (writes) => {
        const { provider, region, zone } = host;
        await writes.setProblem(undefined);
        await writes.place({ host_id: host.id, provider, region, zone, explanation: choice.explanation });
      },
    };
  },
  async undo(_effects, { reserved }) {
    return {
      done: null,
      commit: async (writes) => {
        for (const { hostId } of reserved) await writes.release(hostId);
        await writes.unplace();
      },
    };
  },
};

/** A host that would do is out of reach: says so, and looks again ever more seldom. */
async function awaitHosts(
  effects: Effects,
  resource: Instance,
  { createdAt }: OperationRecord,
  why: string,
): Promise<StepResult> {
  const since = new Date(effects.now()).toISOString();
  const message = `waiting for a host: ${why}`;
  const problem = { reason: "HOSTS_OFFLINE", message, stuck: false, generation: resource.generation, since };
  await effects.write((writes) => writes.setProblem(problem));
  const waitedMs = effects.now() - createdAt.getTime();
  const pauseMs = Math.min(Math.max(waitedMs / 4, hostsBackPauseMs.least), hostsBackPauseMs.most);
  return { wait: effects.now() + pauseMs, why };
}

/** Planning was optimistic: the promise is taken from the best host that still has room. */
async function promiseFirst(
  effects: Effects,
  hosts: readonly HostSnapshot[],
  amounts: { readonly cpus: number; readonly memoryBytes: number; readonly diskBytes: number },
): Promise<HostSnapshot> {
  for (const host of hosts) {
    try {
      await effects.promise({ hostId: host.id, ...amounts });
      return host;
    } catch (error) {
      if (!isFault(error, "exhausted")) throw error;
    }
  }
  throw new Fault("unavailable", "the hosts chosen have filled up meanwhile", { reason: "PLACEMENT_RACE" });
}

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
