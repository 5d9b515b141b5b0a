/** The workload kind for the engine: its few effects on hosts. Each may run twice and is fenced where it lands. */
import { Fault, isFault } from "#kernel/fault.ts";
import type { Action, Controller, Effects, View } from "../../engine/controller.ts";
import { noHost } from "../../engine/waiting.ts";
import type { HostSnapshot } from "../../scheduler/snapshot.ts";
import type { Image } from "../image/image.resource.ts";
import { removeFromHost, sendSpec } from "../instance/instance.actions.ts";
import { hostsOf } from "../instance/instance.decide.ts";
import { toContainerSpec } from "./container-spec.ts";
import { decideWorkload, deriveWorkloadObserved } from "./workload.decide.ts";
import type { Workload } from "./workload.resource.ts";

/** Most changes are done in this; the rest is told by reports. */
const ensureWaitMs = 2_000;

/** Hosts that would do, the nearest first. While there is none it waits, and says why. */
async function chooseHosts(effects: Effects, { resource, references }: View<Workload>, exclude: string[]) {
  const { desired, id, generation, problem } = resource;
  const image = references["image"] as Image | undefined;
  const choice = await effects.choose({
    ...amountsOf(desired),
    provider: desired.provider ?? undefined,
    region: desired.region ?? undefined,
    capability: "containers",
    ...(desired.gpus > 0 && { containerGpus: desired.gpus }),
    imageArchitecture: image?.desired.architecture ?? "x86_64",
    near: desired.target_location ?? undefined,
    nearestFirst: desired.target_location ? true : undefined,
    exclude: new Set(exclude),
    seed: id,
  });
  if (!("unplaceable" in choice)) return choice;
  const message = `waiting for a host: ${choice.why}`;
  const now = new Date(effects.now()).toISOString();
  const since = problem?.reason === noHost ? problem.since : now;
  await effects.write((writes) =>
    writes.setProblem({ reason: noHost, message, stuck: false, generation, since }),
  );
  throw new Fault("unavailable", message, { reason: noHost });
}

function amountsOf({ cpus, memory_bytes, disk_bytes }: Workload["desired"]) {
  return { cpus, memoryBytes: memory_bytes, diskBytes: disk_bytes };
}

/** Planning was optimistic: the promise is taken from the best host that still has room. */
async function takeFirst(
  hosts: readonly HostSnapshot[],
  take: (host: HostSnapshot) => Promise<void>,
): Promise<void> {
  for (const host of hosts) {
    try {
      return await take(host);
    } catch (error) {
      if (!isFault(error, "exhausted")) throw error;
    }
  }
  throw new Fault("unavailable", "the hosts chosen have filled up meanwhile", { reason: "PLACEMENT_RACE" });
}

/**
 * Gives it a host, and another one when its host is cut off for longer than its owner bears: what it has there runs on
 * until that host is back, and so does the promise of room for it.
 */
const place: Action<Workload> = async (effects, view) => {
  const { hostId, desired } = view.resource;
  const { hosts, explanation } = await chooseHosts(effects, view, hostId ? [hostId] : []);
  await takeFirst(hosts, (host) =>
    effects.write(async (writes) => {
      const { id: host_id, provider, region, zone } = host;
      await writes.reserve({ hostId: host_id, ...amountsOf(desired) });
      await writes.setProblem(undefined);
      await writes.place({ ...{ host_id, provider, region, zone }, explanation });
    }),
  );
};

const reserve: Action<Workload> = async (effects, { resource }) => {
  const { hostId, desired } = resource;
  if (hostId) await effects.write((writes) => writes.reserve({ hostId, ...amountsOf(desired) }));
};

const ensure: Action<Workload> = async (effects, view) => {
  const { hostId } = view.resource;
  if (!hostId) return;
  const host = await effects.findHost(hostId);
  if (!host?.online && view.incarnations.length === 0) return await giveUpHost(effects, hostId);
  const spec = toContainerSpec(view.resource, view.references["image"] as Image | undefined);
  const answer = await sendSpec(effects, view, hostId, spec, ensureWaitMs);
  await effects.write((writes) => writes.observeMachine(hostId, answer));
};

/** It has never been heard of there: another host may have it. Should it be there after all, it is a stale copy. */
async function giveUpHost(effects: Effects, hostId: string): Promise<void> {
  await effects.write(async (writes) => {
    await writes.release(hostId);
    await writes.unplace();
  });
}

const remove: Action<Workload> = async (effects, view) => {
  for (const hostId of hostsOf(view)) await removeFrom(effects, view, hostId);
  await effects.write((writes) => writes.erase());
};

const erase: Action<Workload> = (effects) => effects.write((writes) => writes.erase());

const removeStale: Action<Workload> = async (effects, view, input) => {
  const { host_id: hostId } = input as { readonly host_id: string };
  await removeFrom(effects, view, hostId);
  await effects.write(async (writes) => {
    await writes.release(hostId);
    await writes.forgetIncarnation(hostId);
  });
};

async function removeFrom(effects: Effects, view: View<Workload>, hostId: string): Promise<void> {
  if (await removeFromHost(effects, view, hostId)) return;
  throw new Fault("unavailable", "the host is still removing it", { reason: "REMOVAL_GOES_ON" });
}

export const workloadController: Controller<Workload> = {
  kind: "workload",
  decide: decideWorkload,
  actions: { place, reserve, ensure, remove, erase, removeStale },
  operations: [],
  deriveObserved: deriveWorkloadObserved,
};
