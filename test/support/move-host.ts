/** A host that takes part in moves: what an agent has between its own port and a fake driver, in this process. */
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { FakeDriver } from "#agent/drivers/fake/driver.ts";
import type { FakeKnobs } from "#agent/drivers/fake/knobs.ts";
import type { Identity } from "#agent/control/identity.ts";
import { ChangeFeed } from "#agent/machines/change-feed.ts";
import { createHostTransport } from "#agent/machines/host-transport.ts";
import { Ledger } from "#agent/machines/ledger.ts";
import { defaultTiming, type MachineDeps } from "#agent/machines/machine-deps.ts";
import { MachineManager } from "#agent/machines/manager.ts";
import { recoverMachines } from "#agent/machines/recover.ts";
import { CodingWorkers } from "#agent/migration/coding/workers.ts";
import { createPullHandler, MoveSources } from "#agent/migration/pull-handler.ts";
import type { AgentServices } from "#agent/rpc/handler.ts";
import { faultInterceptor } from "#agent/rpc/faults.ts";
import { Listener } from "#agent/rpc/listener.ts";
import { machineService } from "#agent/rpc/machine-service.ts";
import { type Machine, MachineService } from "#gen/skerry/agent/v1/machine_pb.js";
import { silentLogger } from "#kernel/log.ts";
import { readTicks } from "./guest-ticks.ts";
import type { TransportWorld } from "./transport-world.ts";
import { until } from "./until.ts";

/** One pair for all hosts: what is moved here is small. */
const codingWorkers = new CodingWorkers({ log: silentLogger });
const never = new AbortController().signal;

export class MoveHost implements AsyncDisposable {
  readonly name: string;
  readonly driver: FakeDriver;
  readonly manager: MachineManager;
  readonly ledger: Ledger;
  readonly #world: TransportWorld;
  readonly #identity: Identity;
  readonly #deps: MachineDeps;
  readonly #services: AgentServices;
  readonly #stop = new AbortController();
  #listener: Listener | undefined;
  #disconnect: () => Promise<void> = () => Promise.resolve();
  #closed = false;

  private constructor(
    world: TransportWorld,
    name: string,
    identity: Identity,
    ledger: Ledger,
    knobs: Partial<FakeKnobs>,
  ) {
    const log = silentLogger;
    const changes = new ChangeFeed();
    const sources = new MoveSources();
    this.name = name;
    this.ledger = ledger;
    this.driver = new FakeDriver({ log, knobs });
    this.#deps = {
      driver: this.driver,
      images: { ensure: async () => ({ type: "disk", path: "/nowhere", format: "raw" }) },
      moves: createHostTransport({
        ...{ sources, identity, workers: codingWorkers, log },
        gateways: [world.address],
        pageFiles: undefined,
      }),
      timing: { ...defaultTiming, backoff: { baseMs: 10, capMs: 20 }, attempts: 4, progressMs: 20 },
      now: Date.now,
      directoryOf: (id) => join(world.directory, name, "machines", id),
      ...{ ledger, changes, log },
    };
    const manager = (this.manager = new MachineManager(this.#deps));
    this.#services = {
      routes: (router) => router.service(MachineService, machineService({ manager, changes })),
      interceptors: [faultInterceptor(log)],
      pull: createPullHandler({ sources, log }),
    };
    this.#world = world;
    this.#identity = identity;
  }

  /** Starts it, on what an earlier one of that name left behind. */
  static async start(world: TransportWorld, name: string, knobs: Partial<FakeKnobs> = {}): Promise<MoveHost> {
    const identity = await world.join(name);
    const directory = join(world.directory, name, "ledger");
    const ledger = await Ledger.open({ directory, log: silentLogger });
    const host = new MoveHost(world, name, identity, ledger, knobs);
    void host.manager.run(host.#stop.signal);
    await recoverMachines(host.manager, host.#deps, never);
    await host.#serve();
    return host;
  }

  get id(): string {
    return `host-${this.name}`;
  }

  /** Of its own port. */
  get address(): string {
    return `127.0.0.1:${String(this.#listener?.port)}`;
  }

  directoryOf(id: string): string {
    return this.#deps.directoryOf(id);
  }

  view(id: string): Machine | undefined {
    return this.manager.list().find((machine) => machine.id === id);
  }

  async hasFolder(id: string): Promise<boolean> {
    return stat(this.directoryOf(id)).then(
      () => true,
      () => false,
    );
  }

  /** What the machine's guest has counted on this host, in the order it did: `token counter`. */
  ticks(id: string): Promise<readonly string[]> {
    return readTicks(this.directoryOf(id));
  }

  /** As `kill -9` leaves it: every connection cut, nothing tidied up. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#stop.abort();
    await this.driver[Symbol.asyncDispose]();
    await this.manager.close({ pullPlugs: false }, never);
    await this.#disconnect();
    await this.#listener?.[Symbol.asyncDispose]();
  }

  async #serve(): Promise<void> {
    const { session, stop } = this.#world.connect(this.#identity, { services: this.#services });
    this.#disconnect = stop;
    const options = { host: "127.0.0.1", port: 0, keepAliveMs: 15_000, log: silentLogger };
    this.#listener = await Listener.listen({
      identity: this.#identity,
      services: this.#services,
      ...options,
    });
    await until(() => session.state.status === "connected");
    await until(() => this.#world.agents.connected().includes(this.id));
  }
}
