/** What single kinds offer beyond what all kinds do. */
import type { Json } from "#kernel/fault.ts";
import type { Collection, CreateBody, MutationOptions } from "./collection.ts";
import { openConsole, type Console, type ConsoleOptions } from "./console.ts";
import type {
  EnrolmentToken,
  EnrolmentTokenKind,
  Host,
  Image,
  Instance,
  InstancePhase,
  KeyPair,
  KeyPairKind,
  Migration,
  MigrationInput,
  MigrationSpec,
} from "./kinds/generated.ts";
import type { Placement } from "./kinds/resource.ts";
import type { CallOptions, Transport } from "./transport.ts";

export interface ConsoleLog {
  readonly text: string;
  /** Offset in the whole log of the byte after `text`. */
  readonly offset: number;
  /** Where the log ends now. */
  readonly end: number;
}

export interface PlacementReport extends Partial<Omit<Placement, "host_id">> {
  readonly id: string;
  readonly phase: InstancePhase;
  readonly host_id: string | null;
  /** Its name. */
  readonly host?: string;
  /** The answer in a sentence. */
  readonly verdict?: string;
  readonly reasons?: readonly string[];
  /** Every host that was refused, by the reason. */
  readonly refused?: readonly string[];
  readonly would_change?: readonly string[];
  /** The scheduler's own record: who was considered, who was refused and why. */
  readonly explanation?: Json;
}

/** Gauges are averaged over a point's time; counters run since the machine started. */
export interface MetricsPoint {
  readonly at: string;
  readonly [name: string]: string | number;
}

export interface MetricsSeries {
  readonly id: string;
  readonly start_time: string;
  readonly end_time: string;
  readonly interval_seconds: number;
  readonly points: readonly MetricsPoint[];
}

export interface MetricsQuery {
  readonly start?: Date | undefined;
  readonly end?: Date | undefined;
}

/** Where an instance is to move, and how. */
export type MigrationWish = Omit<MigrationInput, "instance" | "cancel">;

/** What a migration would be. */
export interface MigrationPlan {
  readonly possible: boolean;
  readonly type: MigrationSpec["type"];
  /** Where it would go. */
  readonly target: { readonly host_id: string; readonly provider: string; readonly region: string } | null;
  readonly predicted: {
    readonly bytes_total: number;
    /** Of its disks: what the target has kept since it was there last. */
    readonly disk_kept_bytes: number;
    readonly bytes_on_wire: number;
    readonly seconds: number;
    readonly downtime_ms: number | null;
    /** What may be lost by moving it so; null: nothing. */
    readonly risk: string | null;
    /** What the prediction stands on. */
    readonly basis: "last migration" | "assumption";
  };
  /** What stands in the way, each by a name that programs know. */
  readonly blockers: readonly { readonly code: string; readonly message: string }[];
}

const path = (plural: string, id: string, rest: string) =>
  `/skerry/v1/${plural}/${encodeURIComponent(id)}/${rest}`;

/** Reading consoles, metrics and the reasons of the scheduler. */
export function instanceExtras(transport: Transport) {
  return {
    /** Moves it to another host, without stopping it; `migrations.waitFor` and `watch` tell how that goes. */
    async migrate(id: string, wish: MigrationWish = {}, options: MutationOptions = {}): Promise<Migration> {
      const { idempotencyKey, signal, timeoutMs } = options;
      const call = { method: "POST", path: path("instances", id, "migrate"), body: wish } as const;
      return transport.required({ ...call, idempotencyKey, signal, timeoutMs });
    },
    /** What `migrate` with the same wish would be. Nothing happens. */
    async planMigration(
      id: string,
      wish: MigrationWish = {},
      options: CallOptions = {},
    ): Promise<MigrationPlan> {
      const body = { ...wish, dry_run: true };
      return transport.required({ ...options, method: "POST", path: path("instances", id, "migrate"), body });
    },
    /** Where the scheduler put the instance and why. */
    async placement(id: string, options: CallOptions = {}): Promise<PlacementReport> {
      return transport.required({ ...options, method: "GET", path: path("instances", id, "placement") });
    },
    /** A part of the serial console's log; without offset, its end. */
    async consoleLog(
      id: string,
      options: CallOptions & {
        readonly offset?: number | undefined;
        readonly limit?: number | undefined;
      } = {},
    ): Promise<ConsoleLog> {
      const { offset, limit, ...call } = options;
      const response = await transport.response({
        ...call,
        method: "GET",
        path: path("instances", id, "console/log"),
        query: { offset, limit },
        headers: { accept: "text/plain, application/problem+json" },
      });
      const number = (name: string) => Number(response.headers.get(name) ?? 0);
      return {
        text: await response.text(),
        offset: number("x-console-offset"),
        end: number("x-console-end"),
      };
    },
    /** Joins the serial console; it survives broken connections. */
    console(id: string, options: ConsoleOptions = {}): Console {
      return openConsole(transport, path("instances", id, "console"), options);
    },
    /** Samples of a time range. */
    async metrics(id: string, query: MetricsQuery = {}, options: CallOptions = {}): Promise<MetricsSeries> {
      return transport.required({
        ...options,
        method: "GET",
        path: path("instances", id, "metrics"),
        query: { start_time: query.start?.toISOString(), end_time: query.end?.toISOString() },
      });
    },
  };
}

/** Uploading what an image consists of. */
export function imageExtras(transport: Transport) {
  return {
    /** Sends the content of an image whose source is an upload. It is sent once: a broken upload starts over. */
    async upload(
      id: string,
      content: ReadableStream<Uint8Array> | Blob | Uint8Array,
      options: CallOptions = {},
    ): Promise<Image> {
      return transport.required({
        timeoutMs: 6 * 3600_000,
        ...options,
        method: "PUT",
        path: path("images", id, "content"),
        headers: { "content-type": "application/octet-stream" },
        stream: content,
      });
    },
  };
}

export interface OperatorCertificate {
  /** PEM. */
  readonly certificate: string;
  /** PEM: the certificates to trust. */
  readonly authorities: string;
}

/** A machine that a host had before, by its name or uuid, and the name of the instance that it is to be. */
export interface AdoptionWish {
  readonly machine: string;
  readonly name?: string;
  readonly labels?: Readonly<Record<string, string>>;
}

/** A machine that is still on a host that is to be emptied. */
export interface RemainingMachine {
  readonly id: string;
  readonly name: string;
  readonly phase: InstancePhase;
  readonly state: "waiting" | "moving" | "stuck";
  /** Its newest. */
  readonly migration: string | null;
  /** Why it could not move when that was tried last; it is tried again. */
  readonly error: { readonly reason: string; readonly message: string } | null;
}

/** Identity for those who speak to agents directly, emptying hosts, and taking over what they had before. */
export function hostExtras(transport: Transport) {
  return {
    /** What is still on a host, and what could not move and why. */
    async remaining(id: string, options: CallOptions = {}): Promise<readonly RemainingMachine[]> {
      const call = { ...options, method: "GET", path: path("hosts", id, "remaining") } as const;
      return (await transport.required<{ machines: RemainingMachine[] }>(call)).machines;
    },
    /** Says that a silent host is dead for certain. If it is not, what is started elsewhere runs twice until it is back. */
    async declareLost(id: string, options: CallOptions = {}): Promise<Host> {
      const call = { ...options, method: "POST", path: path("hosts", id, "declare-lost") } as const;
      return transport.required({ ...call, body: { certain: true } });
    },
    /** Makes an instance of one of the host's `foreign_machines`, without stopping it. */
    async adopt(id: string, wish: AdoptionWish, options: MutationOptions = {}): Promise<Instance> {
      const { idempotencyKey, signal, timeoutMs } = options;
      const call = { method: "POST", path: path("hosts", id, "adopt"), body: wish } as const;
      return transport.required({ ...call, idempotencyKey, signal, timeoutMs });
    },
    /** Has a certificate request (PEM, PKCS #10) signed: a short-lived operator's certificate. */
    async issueCertificate(request: string, options: CallOptions = {}): Promise<OperatorCertificate> {
      return transport.required({
        ...options,
        method: "POST",
        path: "/skerry/v1/hosts/certificate",
        body: { certificate_request: request },
      });
    },
  };
}

/** A line that a workload printed. */
export interface WorkloadLogLine {
  readonly at: string;
  readonly stream: "stdout" | "stderr";
  readonly text: string;
}

/** What workloads offer besides. */
export function workloadExtras(transport: Transport) {
  return {
    /** The last lines that it printed, oldest first. */
    async readLog(id: string, lines: number, options: CallOptions = {}): Promise<readonly WorkloadLogLine[]> {
      const call = { method: "GET", path: path("workloads", id, "log"), query: { lines } } as const;
      const answer = await transport.required<{ readonly lines: readonly WorkloadLogLine[] }>({
        ...options,
        ...call,
      });
      return answer.lines;
    },
  };
}

/** The answer to creating an enrolment token: the only time that it is shown. */
export type IssuedEnrolmentToken = EnrolmentToken & {
  readonly token: string;
  /** host:port that the new host's agent dials. */
  readonly gateway: string;
};

/** Letting hosts join. */
export function enrolmentTokenExtras(tokens: Pick<Collection<EnrolmentTokenKind>, "create">) {
  return {
    /** Makes a token that lets one host join; `token` is shown this once. */
    async issue(
      body: CreateBody<EnrolmentTokenKind>,
      options: MutationOptions = {},
    ): Promise<IssuedEnrolmentToken> {
      return (await tokens.create(body, options)) as IssuedEnrolmentToken;
    },
  };
}

/** A key pair that was made for its owner. */
export type GeneratedKeyPair = KeyPair & { readonly private_key: string };

export function keyPairExtras(keyPairs: Pick<Collection<KeyPairKind>, "create">) {
  return {
    /** Makes a key pair of that name; `private_key` is shown this once, as OpenSSH keeps it in a file. */
    async generate(name: string, options: MutationOptions = {}): Promise<GeneratedKeyPair> {
      return (await keyPairs.create({ name, spec: {} }, options)) as GeneratedKeyPair;
    },
  };
}
