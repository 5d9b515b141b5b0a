/**
 * What runs containers, reduced to what the driver needs. An engine keeps what it must find again on disk: containers
 * outlive the agent. They are known by the id of their machine and by nothing else.
 */
import type { HealthCheck } from "#gen/skerry/agent/v1/workload_pb.js";

/** A container as it is to be made. Changing any of it takes a new container. */
export interface ContainerSetup {
  /** As the engine's own store knows the image. */
  readonly image: string;
  /** Empty: what the image says. */
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly hostname: string;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly ports: readonly {
    readonly protocol: string;
    readonly containerPort: number;
    readonly hostPort: number;
    readonly hostAddress: string;
  }[];
  readonly health: readonly string[];
  /** Devices of the host's that it gets, by their CDI names. */
  readonly devices: readonly string[];
  /** Where what it prints is kept, line by line; see `log.ts`. */
  readonly logPath: string;
}

export interface FoundContainer {
  readonly id: string;
  /** What was given at creation. */
  readonly shape: string;
  readonly state: "created" | "running" | "exited";
  readonly startedAt: Date | undefined;
  /** How it ended, once it has. */
  readonly exitCode: number;
  /** When it ended after its last start. Undefined: it did not, nobody saw it, or the question was for all of them. */
  readonly endedAt: Date | undefined;
}

export interface ContainerUsage {
  readonly cpuSeconds: number;
  readonly memoryUsedBytes: bigint;
  readonly networkInBytes: bigint;
  readonly networkOutBytes: bigint;
  readonly diskReadBytes: bigint;
  readonly diskWriteBytes: bigint;
}

export interface ContainerEngine extends AsyncDisposable {
  readonly name: "podman" | "fake";
  /** The engine's version, after a container has run and ended. */
  probe(signal: AbortSignal): Promise<string>;
  /** Brings an image from its registry, unless it is here; gives what the engine calls it. */
  pull(reference: string, signal: AbortSignal): Promise<string>;
  /** Takes an OCI archive in, unless that was done before; gives what the engine calls the image. */
  load(archive: { readonly path: string; readonly sha256: string }, signal: AbortSignal): Promise<string>;
  /** Why it gives no container this device of the host's (a CDI name); undefined: it does. */
  refusesDevice(device: string, signal: AbortSignal): Promise<string | undefined>;
  list(signal: AbortSignal): Promise<readonly FoundContainer[]>;
  find(id: string, signal: AbortSignal): Promise<FoundContainer | undefined>;
  /** The container must not exist. */
  create(id: string, shape: string, setup: ContainerSetup, signal: AbortSignal): Promise<void>;
  /** Starts it; it may have ended again when this returns. */
  start(id: string, signal: AbortSignal): Promise<void>;
  /** Asks it to end and, after the time given, ends it. */
  stop(id: string, timeoutSeconds: number, signal: AbortSignal): Promise<void>;
  kill(id: string, signal: AbortSignal): Promise<void>;
  /** Ends it at once, if it runs, and forgets it. Absent is success. */
  remove(id: string, signal: AbortSignal): Promise<void>;
  /** Runs the health check that it was made with, once. */
  isHealthy(id: string, signal: AbortSignal): Promise<boolean>;
  /** Undefined when it does not run. */
  usage(id: string, signal: AbortSignal): Promise<ContainerUsage | undefined>;
  /** Yields once it listens and whenever something may have changed, until the signal aborts. */
  hints(signal: AbortSignal): AsyncIterable<void>;
}

export type HealthSettings = Pick<
  HealthCheck,
  "intervalSeconds" | "timeoutSeconds" | "retries" | "startPeriodSeconds"
>;
