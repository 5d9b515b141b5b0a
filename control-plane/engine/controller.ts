/**
 * What a kind gives the engine: a pure decision, a few effects, and operations where order matters and
 * half-done must be undone. The engine does the rest: leases, fences, retries, persistence.
 */
import type { Json } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import type { AgentPort } from "../agents/port.ts";
import type { Placement, Problem, Resource } from "../resources/definition.ts";
import type { HostSnapshot } from "../scheduler/snapshot.ts";
import type { PlaceRequest, PlaceResult } from "./fleet.ts";

/** One copy of a resource on one host, as that host last reported it. */
export interface Incarnation {
  readonly hostId: string;
  readonly seq: number;
  readonly epoch: number;
  /** The generation of the newest intent that the host has accepted. */
  readonly acceptedGeneration: number;
  /** The generation that it has converged to. */
  readonly generation: number;
  readonly state: string;
  /** The agent's message, snake_case. */
  readonly observed: Readonly<Record<string, unknown>>;
  /** Whether the host is connected to any replica; looked up only for hosts other than the resource's own. */
  readonly connected: boolean;
  readonly updatedAt: Date;
}

export interface Reserved {
  readonly hostId: string;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly diskBytes: number;
}

export interface OperationRecord {
  readonly id: string;
  readonly name: string;
  readonly version: number;
  readonly status: "running" | "undoing" | "done" | "undone" | "failed";
  readonly input: Json;
  readonly error: OperationError | undefined;
  readonly attempt: number;
  readonly createdAt: Date;
  /** What steps have given, by name; kept when they are undone. */
  readonly outputs: Readonly<Record<string, Json>>;
  readonly done: readonly string[];
  readonly undone: readonly string[];
}

export interface OperationError {
  readonly code: string;
  readonly reason: string;
  readonly message: string;
}

/** All that a decision may look at. */
export interface View<R extends Resource = Resource> {
  readonly resource: R;
  readonly incarnations: readonly Incarnation[];
  readonly reserved: readonly Reserved[];
  /** The operation in progress. */
  readonly operation: OperationRecord | undefined;
  /** The operation that ended last. */
  readonly lastOperation: OperationRecord | undefined;
  /** The resources that the spec refers to, by the name of the reference. */
  readonly references: Readonly<Record<string, Resource>>;
  /** Open requests to this resource, oldest first; its operations carry them out. */
  readonly requests: readonly Resource[];
  /** Its host is lost (engine/loss.ts): what it ran under a lease runs there no more. */
  readonly hostLost?: boolean;
  /** It is so because an operator is certain of it. */
  readonly hostDead?: boolean;
  /** How many other resources refer to this one or have it as their host. */
  readonly dependents: number;
}

export type Decision =
  /** All is as it should be. */
  | { readonly do: "settle" }
  | { readonly do: "act"; readonly action: string; readonly input?: Json }
  | { readonly do: "start"; readonly operation: string; readonly input: Json }
  /** Look again when something changes, at the latest at `until` (Unix ms). */
  | {
      readonly do: "wait";
      readonly until: number;
      readonly why: string;
      /** The host whose connection is needed to go on, where that is not the resource's own. */
      readonly hostId?: string | undefined;
      /** Shown to the owner meanwhile. */
      readonly problem?: { readonly reason: string; readonly message: string };
    }
  /** Nothing more to try until the owner changes something; the reason is shown. */
  | { readonly do: "stick"; readonly reason: string; readonly message: string };

/** Writes that a kind may make. All belong to one transaction that holds the claim. */
export interface Writes {
  /** Stores what a host answered about this resource, exactly as a report of it. */
  observeMachine(hostId: string, machine: MachineObservation): Promise<void>;
  /** For kinds that the control plane itself observes. */
  observe(observed: unknown, generation: number): Promise<void>;
  place(placement: Placement): Promise<void>;
  unplace(): Promise<void>;
  /**
   * Puts the resource on another host than the one that was lost, for good: what that has of it is a stale copy. Throws
   * `unavailable` HOST_RETURNED when it is lost no more.
   */
  takeFromLost(lostHostId: string, placement: Placement): Promise<void>;
  setProblem(problem: Problem | undefined): Promise<void>;
  /** Takes or changes a promise of capacity; throws `exhausted` NO_CAPACITY when the host has not that much left. */
  reserve(request: Reserved): Promise<void>;
  release(hostId: string): Promise<void>;
  forgetIncarnation(hostId: string): Promise<void>;
  /** Changes the status of an open request to this resource; `undefined` leaves it as it is. May throw. */
  changeRequest(id: string, change: (request: Resource) => unknown): Promise<void>;
  /** Throws `conflict` INSTANCE_CHANGED when its owner has changed it since. */
  expectGeneration(generation: number): Promise<void>;
  /** Takes the resource away for good. */
  erase(): Promise<void>;
}

export interface MachineObservation {
  readonly id: string;
  readonly seq: number;
  readonly epoch: number;
  readonly accepted_generation: number;
  readonly generation: number;
  readonly state: string;
  readonly observed: Readonly<Record<string, unknown>>;
}

/** What actions and steps work with. */
export interface Effects {
  readonly agents: AgentPort;
  readonly signal: AbortSignal;
  readonly log: Logger;
  /** A fence for one command: above all that were given out before, and below those of every later claim. */
  nextFence(): { readonly epoch: bigint; readonly generation: bigint };
  now(): number;
  /** What the scheduler knows of a host. */
  findHost(id: string): Promise<HostSnapshot | undefined>;
  /** Chooses a host; pure but for reading the fleet. Writes nothing. */
  choose(request: PlaceRequest): Promise<PlaceResult>;
  /**
   * Takes a promise of capacity for a resource that has none yet, ahead of the transaction that puts it on
   * the host (see ADR 6); one on another host is given back. Throws `exhausted` NO_CAPACITY.
   */
  promise(request: Reserved): Promise<void>;
  /** What `choose` said was no longer true: the next one looks what has changed. */
  refreshHosts(): void;
  /** One transaction, refused as `stale` when the claim is lost. */
  write(work: (writes: Writes) => Promise<void>): Promise<void>;
}

export type Action<R extends Resource> = (effects: Effects, view: View<R>, input: Json) => Promise<void>;

export type StepResult =
  | {
      readonly done: Json;
      /** Runs in the transaction that records the step as done; what it gives replaces `done`. */
      readonly commit?: (writes: Writes) => Promise<Json | void>;
      /**
       * What the next step would do first, done at once after the commit because somebody waits for it. The next
       * step must do with it undone, half done or done: it may fail, and the replica may die before it.
       */
      readonly ahead?: () => Promise<void>;
    }
  | {
      readonly wait: number;
      readonly why: string;
      /** The host whose connection is needed to go on, where that is not the resource's own. */
      readonly hostId?: string;
    };

export interface Step<R extends Resource = Resource> {
  /** A stored format: never rename it within a version. */
  readonly name: string;
  /** True when `run` has no effects outside its commit, so it need not be recorded before it starts. */
  readonly effectFree?: true;
  /** After this step the operation only goes forward. */
  readonly pointOfNoReturn?: true;
  /** May run twice. */
  run(effects: Effects, view: View<R>, operation: OperationRecord): Promise<StepResult>;
  /** May run twice; also called for the step that failed, whose output is undefined. */
  readonly undo?: (
    effects: Effects,
    view: View<R>,
    operation: OperationRecord,
    output: Json | undefined,
  ) => Promise<StepResult>;
}

export interface Operation<R extends Resource = Resource> {
  readonly name: string;
  readonly version: number;
  readonly steps: readonly Step<R>[];
}

export interface Controller<R extends Resource = Resource> {
  readonly kind: string;
  /** Pure. */
  decide(view: View<R>, now: number): Decision;
  readonly actions: Readonly<Record<string, Action<R>>>;
  /** All versions that a run in progress may still need; a start takes the last of its name. */
  readonly operations: readonly Operation<R>[];
  /** Pure: what the resource's status is, given what the hosts say. Undefined: nothing seen yet. */
  deriveObserved?(
    resource: R,
    incarnations: readonly Incarnation[],
    requests: readonly Resource[],
  ): { readonly observed: unknown; readonly generation: number } | undefined;
  /** Pure: the status of an open request, given what the hosts say. Undefined: no change. */
  deriveRequest?(request: Resource, incarnations: readonly Incarnation[]): unknown;
}

/** A controller whose resource type has been forgotten, as the registry holds it. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any -- variance: each controller takes its own kind
export type AnyController = Controller<any>;
