/** The shape every resource has in the native API, whatever its kind. */
/** Why a resource does not get where it should. `stuck`: nothing more is tried until its owner changes it. */
export interface Problem {
  readonly reason: string;
  readonly message: string;
  readonly stuck: boolean;
  readonly generation: number;
  readonly since: string;
}

/** Where the scheduler put it; why is told by the placement report. */
export interface Placement {
  readonly host_id: string;
  readonly provider: string;
  readonly region: string;
  readonly zone: string;
}

/** The types of one kind, as the generated file lists them. */
export interface KindTypes {
  readonly kind: string;
  /** The full spec, as it is read. */
  readonly spec: unknown;
  /** The spec as it is given: what has a default may be left out. */
  readonly input: unknown;
  readonly status: unknown;
  readonly phase: string;
  /** Verbs and the input that each takes. */
  readonly verbs: object;
  /** Names of the filters that a list takes. */
  readonly filter: string;
  /** Which changes the API offers. */
  readonly may: "create" | "update" | "delete";
}

export interface Resource<K extends KindTypes = KindTypes> {
  readonly id: string;
  readonly kind: K["kind"];
  readonly project: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Counts the user's changes; `observed_generation` follows it as they take effect. */
  readonly generation: number;
  readonly observed_generation: number;
  readonly phase: K["phase"];
  readonly problem: Problem | null;
  readonly spec: K["spec"];
  readonly status: K["status"] | null;
  readonly placement: Placement | null;
  readonly created_at: string;
  readonly updated_at: string;
  readonly deleting_at: string | null;
}

/** What the client knows of a kind at run time. */
export interface KindInfo {
  readonly kind: string;
  readonly plural: string;
  readonly idPrefixes: readonly string[];
  readonly summary: string;
  readonly phases: readonly string[];
  /** Phases in which nothing is under way. */
  readonly settled: readonly string[];
  readonly verbs: readonly string[];
  readonly filters: readonly string[];
}
