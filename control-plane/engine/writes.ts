import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import type { Placement, Problem, Resource } from "../resources/definition.ts";
import type { Database, Tx } from "../store/database.ts";
import { release, reserve } from "./capacity.ts";
import type { MachineObservation, Reserved, View, Writes } from "./controller.ts";
import { observeMachines, recomputeObserved, type KindRegistry } from "./observe.ts";
import type { Observed } from "./view.ts";
import { eraseResource, lockRequest, lockResource, postChange, type ResourceChange } from "./rows.ts";
import { assertClaim, type Claim } from "./work.ts";

/** Runs `work` in one transaction that holds the claim; throws `stale` when it is lost. */
export function fencedWrite<T>(
  database: Database,
  registry: KindRegistry,
  claim: Claim,
  log: Logger,
  work: (writes: FencedWrites) => Promise<T>,
): Promise<T> {
  return database.transaction(async (tx) => {
    assertClaim(tx, claim);
    return work(new FencedWrites(tx, registry, claim.key, log));
  });
}

/** The writes of one fenced transaction on one resource. */
export class FencedWrites implements Writes {
  readonly tx: Tx;
  readonly #registry: KindRegistry;
  readonly #id: string;
  readonly #log: Logger;
  #locked: Resource | undefined;
  #seen: Observed | undefined;
  #isFollowed = true;

  constructor(tx: Tx, registry: KindRegistry, id: string, log: Logger) {
    this.tx = tx;
    this.#registry = registry;
    this.#id = id;
    this.#log = log;
  }

  /**
   * What was known before, as this transaction leaves it; undefined when only another look tells.
   * @param before of this round: whatever others change meanwhile makes the key dirty
   */
  follow(before: View): View | undefined {
    if (!this.#isFollowed || !this.#locked) return undefined;
    return { ...before, ...this.#seen, resource: this.#locked };
  }

  async observeMachine(hostId: string, machine: MachineObservation): Promise<void> {
    const [seen] = await observeMachines(this.tx, this.#registry, hostId, [machine], this.#log);
    this.#seen = seen;
    this.#locked = seen?.resource;
  }

  observe(observed: unknown, generation: number): Promise<void> {
    return this.#change({ observed, observedGeneration: generation });
  }

  place(placement: Placement): Promise<void> {
    return this.#change({ placement, hostId: placement.host_id });
  }

  /** Without a host there is nothing to see: a report that came late must not be what is shown. */
  unplace(): Promise<void> {
    this.#isFollowed = false;
    return this.#change({ placement: undefined, hostId: undefined, observed: undefined });
  }

  async takeFromLost(lostHostId: string, placement: Placement): Promise<void> {
    this.#isFollowed = false;
    const lost = await this.tx.query(
      "select 1 from host_session where host_id = $1 and lost_at is not null for share",
      [lostHostId],
    );
    if (lost.length === 0) {
      throw new Fault("unavailable", "the host is heard of again", { reason: "HOST_RETURNED" });
    }
    // As long as this row is there the host gets no lease; it goes when the host says that nothing is left.
    await this.tx.query(
      `insert into incarnation (resource_id, host_id, seq, epoch, accepted_generation, generation, state, observed)
       values ($1, $2, 0, 0, 0, 0, 'stopped', '{}') on conflict do nothing`,
      [this.#id, lostHostId],
    );
    await this.#change({ placement, hostId: placement.host_id, observed: undefined });
  }

  async setProblem(problem: Problem | undefined): Promise<void> {
    const resource = await this.#lock();
    const known = resource.problem;
    const same =
      known?.reason === problem?.reason &&
      known?.message === problem?.message &&
      known?.stuck === problem?.stuck &&
      known?.generation === problem?.generation;
    if (!same) await this.#change({ problem });
  }

  reserve(request: Reserved): Promise<void> {
    this.#isFollowed = false;
    return reserve(this.tx, this.#id, request);
  }

  async release(hostId: string): Promise<void> {
    this.#isFollowed = false;
    release(this.tx, this.#id, hostId);
  }

  async forgetIncarnation(hostId: string): Promise<void> {
    this.#isFollowed = false;
    await this.tx.query("delete from incarnation where resource_id = $1 and host_id = $2", [
      this.#id,
      hostId,
    ]);
    this.#locked = undefined;
    await recomputeObserved(this.tx, this.#registry, [this.#id], this.#log);
  }

  async changeRequest(id: string, change: (request: Resource) => unknown): Promise<void> {
    this.#isFollowed = false;
    const before = await this.#lockRequest(id);
    const observed = change(before);
    if (observed === undefined) return;
    const definition = this.#registry.definition(before.kind);
    const ends = definition.settled.includes(definition.phase({ ...before, observed }));
    const observedGeneration = ends ? before.generation : before.observedGeneration;
    postChange(this.tx, definition, before, { observed, observedGeneration }, this.#log);
    if (ends) this.tx.post("update resource set request_of = null where id = $1", [id], "request_end");
    // Only its beginning and its end show at the resource that it is a request to.
    if (before.observed !== undefined && !ends) return;
    this.#locked = undefined;
    await recomputeObserved(this.tx, this.#registry, [this.#id], this.#log);
  }

  async expectGeneration(generation: number): Promise<void> {
    if ((await this.#lock()).generation === generation) return;
    throw new Fault("conflict", "it was changed meanwhile", { reason: "INSTANCE_CHANGED" });
  }

  async erase(): Promise<void> {
    this.#isFollowed = false;
    const gone = await this.#lock();
    await eraseResource(this.tx, this.#registry.definition(gone.kind), gone);
  }

  async #change(change: ResourceChange): Promise<void> {
    const before = await this.#lock();
    const definition = this.#registry.definition(before.kind);
    this.#locked = postChange(this.tx, definition, before, change, this.#log);
  }

  /** Whoever changes a request holds the work row of what it is a request to. */
  async #lockRequest(id: string): Promise<Resource> {
    const request = await lockRequest(this.tx, id, this.#id);
    if (!request) throw new Fault("stale", "the request is gone", { reason: "REQUEST_GONE" });
    return request;
  }

  async #lock(): Promise<Resource> {
    this.#locked ??= await lockResource(this.tx, this.#id);
    if (!this.#locked) throw new Fault("stale", "the resource is gone", { reason: "RESOURCE_GONE" });
    return this.#locked;
  }
}
