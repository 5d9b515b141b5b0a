/** Making an instance of a machine that was on a host before this cloud. */
import type { Ctx } from "#kernel/ctx.ts";
import { Fault, isFault } from "#kernel/fault.ts";
import { host, type ForeignMachine, type Host } from "../resources/host/host.resource.ts";
import { instance, type InstanceInput } from "../resources/instance/instance.resource.ts";
import type { Queryable } from "../store/database.ts";
import { authorise } from "./authorisation.ts";
import type { MutationOptions, Reply } from "./resource-api.ts";
import type { ResourceService } from "./resource-service.ts";

export interface AdoptionWish {
  /** Name or uuid that the host's hypervisor has for it. */
  readonly machine: string;
  /** The instance's; the machine's own when absent. */
  readonly name?: string | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
}

const MiB = 1024 ** 2;

export class Adoption {
  readonly #resources: ResourceService;
  readonly #database: Queryable;

  constructor({
    resources,
    database,
  }: {
    readonly resources: ResourceService;
    readonly database: Queryable;
  }) {
    this.#resources = resources;
    this.#database = database;
  }

  /**
   * Takes a machine over for the caller's project. Throws `notFound` MACHINE_NOT_FOUND, and `conflict` NOT_ADOPTABLE
   * with each reason, ALREADY_ADOPTED or HOST_OFFLINE. For administrators: whoever has it reads its console and disk.
   */
  async adopt(ctx: Ctx, hostId: string, wish: AdoptionWish, options: MutationOptions): Promise<Reply> {
    authorise(ctx.principal, host.access.update, "adopting machines", "change");
    const found = (await this.#resources.get(ctx, host, hostId)) as Host;
    if (!found.observed?.connected) {
      throw new Fault("conflict", "the host is not connected", { reason: "HOST_OFFLINE" });
    }
    const machine = chooseMachine(found.observed.foreign_machines, wish.machine);
    if (!machine) throw await this.#absent(found, wish.machine);
    refuseObstacles(machine);
    const input = { name: wish.name ?? machine.name, ...(wish.labels && { labels: wish.labels }) };
    const spec = toInstanceSpec(found.id, machine);
    try {
      return await this.#resources.create(ctx, instance, { ...input, spec }, options, { withheld: true });
    } catch (thrown) {
      // Names of instances may be the same: what is taken is the machine.
      if (isFault(thrown, "conflict") && thrown.reason === "NAME_TAKEN") {
        throw await this.#absent(found, machine.uuid);
      }
      throw thrown;
    }
  }

  /** Says whether the machine is not there or is an instance already. */
  async #absent(on: Host, wanted: string): Promise<Fault> {
    const [taken] = await this.#database.query<{ id: string }>(
      `select id from resource where kind = 'instance' and desired #>> '{adopted,host_id}' = $1
         and (desired #>> '{adopted,uuid}' = $2 or desired #>> '{adopted,name}' = $2) limit 1`,
      [on.id, wanted],
      "adoption_find",
    );
    if (taken) {
      return new Fault("conflict", "it has been adopted already", {
        reason: "ALREADY_ADOPTED",
        detail: { instance: taken.id },
      });
    }
    const known = (on.observed?.foreign_machines ?? []).map(({ name }) => name);
    return new Fault("notFound", `the host has no machine called ${JSON.stringify(wanted.slice(0, 80))}`, {
      reason: "MACHINE_NOT_FOUND",
      detail: { known: known.slice(0, 50) },
    });
  }
}

function chooseMachine(
  machines: readonly ForeignMachine[] | undefined,
  wanted: string,
): ForeignMachine | undefined {
  return machines?.find(({ uuid }) => uuid === wanted) ?? machines?.find(({ name }) => name === wanted);
}

function refuseObstacles({ obstacles }: ForeignMachine): void {
  if (obstacles.length === 0) return;
  throw new Fault("conflict", `it cannot be adopted: ${obstacles.map(({ message }) => message).join("; ")}`, {
    reason: "NOT_ADOPTABLE",
    detail: { obstacles: obstacles.map(({ code, message }) => ({ code, message })) },
  });
}

/** It goes on as it is: on or off, with the size it has, in the whole mebibytes that instances come in. */
function toInstanceSpec(hostId: string, machine: ForeignMachine): InstanceInput {
  const { uuid, name, state, cpus, memory_bytes, disks } = machine;
  return {
    image: null,
    adopted: { host_id: hostId, uuid, name },
    power: state === "stopped" || state === "stopping" ? "off" : "on",
    cpus,
    memory_bytes: Math.ceil(memory_bytes / MiB) * MiB,
    disk_bytes: Math.floor((disks[0]?.size_bytes ?? 0) / MiB) * MiB,
    hostname: null,
  };
}
