/**
 * Agents by the thousand, in a few processes: real sessions, real reports, fake machines. Hosts join one after the
 * other, so many at a time, as a cloud of them would be built up.
 */
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { Json } from "#kernel/fault.ts";
import { deadline, sleep } from "#kernel/retry.ts";

export interface SwarmHost {
  readonly name: string;
  /** The JSON form of `HostLabels`. */
  readonly labels: Json;
  readonly token: string;
  /** host:port */
  readonly gateway: string;
  readonly directory: string;
  readonly capacity: { readonly cpus: number; readonly memoryBytes: number; readonly diskBytes: number };
  readonly sampleSeconds: number;
  readonly keepAliveSeconds: number;
  /** Its line to the control plane goes through a proxy, so that {@link AgentSwarm.cut} can cut it. */
  readonly canBeCut: boolean;
}

export type SwarmCommand =
  { readonly type: "run"; readonly host: SwarmHost } | { readonly type: "cut"; readonly name: string };

export type SwarmEvent =
  | { readonly type: "connected"; readonly name: string }
  | { readonly type: "error"; readonly name: string; readonly message: string };

export interface AgentSwarmOptions {
  readonly processes: number;
  /** Told of what agents log as errors. */
  readonly onError: (name: string, message: string) => void;
}

/** With thousands of them on few cores, one may have to wait for its turn again and again. */
const joinLimitMs = 900_000;
const endLimitMs = 5_000;

export class AgentSwarm implements AsyncDisposable {
  readonly #children: readonly ChildProcess[];
  readonly #childOf = new Map<string, ChildProcess>();
  readonly #joined = new Map<string, () => void>();
  #connections = 0;

  constructor({ processes, onError }: AgentSwarmOptions) {
    const file = join(import.meta.dirname, "agent-swarm-process.ts");
    // The condition that its parent runs with, so that both mean the same sources.
    const execArgv = [...process.execArgv.filter((arg) => arg.startsWith("--conditions")), "--import=tsx"];
    this.#children = Array.from({ length: processes }, () => {
      const child = fork(file, [], { execArgv, stdio: ["ignore", "ignore", "inherit", "ipc"] });
      child.on("message", (event: SwarmEvent) => {
        if (event.type === "error") return onError(event.name, event.message);
        this.#connections++;
        this.#joined.get(event.name)?.();
        this.#joined.delete(event.name);
      });
      return child;
    });
  }

  get pids(): readonly number[] {
    return this.#children.flatMap(({ pid }) => pid ?? []);
  }

  /** How often any of them has connected. */
  get connections(): number {
    return this.#connections;
  }

  /** Starts a host's agent and waits until it is connected. */
  async join(host: SwarmHost, signal: AbortSignal): Promise<void> {
    const child = this.#children[this.#childOf.size % this.#children.length];
    if (!child) throw new RangeError("a swarm has at least one process");
    this.#childOf.set(host.name, child);
    const joined = new Promise<void>((resolve) => this.#joined.set(host.name, resolve));
    child.send({ type: "run", host } satisfies SwarmCommand);
    using limit = deadline(joinLimitMs, `${host.name}'s joining`, signal);
    await Promise.race([joined, aborted(limit)]);
  }

  /** Cuts a host off from its control plane for good; its agent runs on. */
  cut(name: string): void {
    this.#childOf.get(name)?.send({ type: "cut", name } satisfies SwarmCommand);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#children.map(end));
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) =>
    signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true }),
  );
}

/** Agents may be killed at any time: that thousands end one by one is not waited for. */
async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  child.disconnect();
  const late = new AbortController();
  const kill = sleep(endLimitMs, late.signal).then(
    () => child.kill("SIGKILL"),
    () => undefined, // it has ended
  );
  await exited;
  late.abort();
  await kill;
}
