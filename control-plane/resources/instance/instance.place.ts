/**
 * The step that gives a new instance its host. While no host will do it waits, and says why: it is tried again
 * when room appears (`engine/waiting.ts`), and by its own clock, ever more seldom.
 */
import { Fault, isFault } from "#kernel/fault.ts";
import { backoffMs } from "#kernel/retry.ts";
import type { Effects, OperationRecord, Step, StepResult, Writes } from "../../engine/controller.ts";
import { noHost } from "../../engine/waiting.ts";
import type { PlaceRequest } from "../../engine/fleet.ts";
import type { Amounts, HostSnapshot } from "../../scheduler/snapshot.ts";
import { constraintsOf } from "./constraints.ts";
import type { Image } from "../image/image.resource.ts";
import { placeAdopted } from "./instance.adopt.ts";
import type { CreateInput, PlacedOutput } from "./instance.decide.ts";
import { leaseTermsOf } from "./instance.lost.ts";
import type { Instance } from "./instance.resource.ts";

const choices = 4;
const pauseMs = { least: 500, most: 60_000 };

/** What an instance that has no host yet asks of one. */
export function placementRequest(
  resource: Pick<Instance, "id" | "project" | "desired">,
  image: Image | undefined,
): Omit<PlaceRequest, "seed"> {
  const { desired } = resource;
  return {
    ...constraintsOf(resource),
    capability: leaseTermsOf(desired) > 0 ? "lease" : undefined,
    cpus: desired.cpus,
    memoryBytes: desired.memory_bytes,
    diskBytes: desired.disk_bytes,
    provider: desired.provider ?? undefined,
    region: desired.region ?? undefined,
    imageArchitecture: image?.desired.architecture ?? "x86_64",
  };
}

export const place: Step<Instance> = {
  name: "place",
  effectFree: true,
  async run(effects, { resource, references }, operation) {
    const { adopted } = resource.desired;
    if (adopted) return placeAdopted(effects, resource, adopted);
    const { exclude } = operation.input as unknown as CreateInput;
    const request = placementRequest(resource, references["image"] as Image | undefined);
    const choice = await choosePromised(effects, {
      ...request,
      exclude: new Set(exclude),
      seed: operation.id,
    });
    if ("unplaceable" in choice) {
      if (!choice.excludedWouldDo) return awaitRoom(effects, resource, operation, choice.why);
      // Those that would do have had their try.
      throw new Fault("exhausted", `no host can take it: ${choice.why}`, {
        reason: noHost,
        detail: { explanation: choice.unplaceable },
      });
    }
    const { host } = choice;
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

async function awaitRoom(
  effects: Effects,
  { problem, generation }: Instance,
  { createdAt }: OperationRecord,
  why: string,
): Promise<StepResult> {
  const now = effects.now();
  const since = problem?.reason === noHost ? problem.since : new Date(now).toISOString();
  const message = `waiting for a host: ${why}`;
  await effects.write((writes) =>
    writes.setProblem({ reason: noHost, message, stuck: false, generation, since }),
  );
  const baseMs = Math.max((now - createdAt.getTime()) / 2, pauseMs.least);
  return { wait: now + backoffMs(0, { baseMs, capMs: pauseMs.most }), why };
}

/** Planning is optimistic, promising is not: when others were quicker with every host of a choice, it is made afresh. */
async function choosePromised(effects: Effects, request: PlaceRequest) {
  for (let attempt = 1; attempt <= choices; attempt++) {
    const choice = await effects.choose(request);
    if ("unplaceable" in choice) return choice;
    const host = await promiseFirst(effects, choice.hosts, request);
    if (host) return { host, explanation: choice.explanation };
    effects.refreshHosts();
  }
  throw new Fault("unavailable", "the hosts chosen have filled up meanwhile", { reason: "PLACEMENT_RACE" });
}

/** Takes the promise from the best host that still has room; undefined when none has. */
async function promiseFirst(
  effects: Effects,
  hosts: readonly HostSnapshot[],
  { cpus, memoryBytes, diskBytes }: Amounts,
): Promise<HostSnapshot | undefined> {
  for (const host of hosts) {
    try {
      await effects.promise({ hostId: host.id, cpus, memoryBytes, diskBytes });
      return host;
    } catch (error) {
      if (!isFault(error, "exhausted")) throw error;
    }
  }
  return undefined;
}

/** The same for what has a promise elsewhere already. Throws `exhausted` NO_CAPACITY. */
export async function reserveFirst(
  writes: Writes,
  hosts: readonly HostSnapshot[],
  { cpus, memoryBytes, diskBytes }: Amounts,
): Promise<HostSnapshot> {
  for (const host of hosts) {
    try {
      await writes.reserve({ hostId: host.id, cpus, memoryBytes, diskBytes });
      return host;
    } catch (error) {
      if (!isFault(error, "exhausted")) throw error;
    }
  }
  throw new Fault("exhausted", "the hosts chosen have filled up meanwhile", { reason: "NO_CAPACITY" });
}
