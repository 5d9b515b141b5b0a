/**
 * A host of a world of engines whose machines move: real managers and ledgers on a folder, with the fake driver, that
 * can be killed and started again, lose its connection to the control plane, and spoil what arrives.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { duplexPair, type Duplex } from "node:stream";
import { FakeDriver } from "#agent/drivers/fake/driver.ts";
import type { FakeKnobs } from "#agent/drivers/fake/knobs.ts";
import { ChangeFeed, type Change } from "#agent/machines/change-feed.ts";
import { Ledger } from "#agent/machines/ledger.ts";
import { defaultTiming, type MachineDeps } from "#agent/machines/machine-deps.ts";
import { MachineManager } from "#agent/machines/manager.ts";
import type { MoveTransport } from "#agent/machines/move-transport.ts";
import { recoverMachines } from "#agent/machines/recover.ts";
import { Fault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";
import type { WorldAgent } from "./engine-world.ts";

const never = new AbortController().signal;

export interface MovingHostOptions {
  readonly moves: MoveTransport;
  readonly knobs: Partial<FakeKnobs>;
}

/** One life of its agent. */
interface Life {
  readonly driver: FakeDriver;
  readonly manager: MachineManager;
  readonly stop: AbortController;
}

export class MovingHost implements WorldAgent {
  readonly id: string;
  readonly changes = new ChangeFeed();
  readonly commands: string[] = [];
  readonly manager: WorldAgent["manager"];
  loseReplies = 0;
  /** The next bytes of a machine that arrive here have a wrong bit. */
  damaging = false;
  readonly #directory: string;
  readonly #options: MovingHostOptions;
  #life: Life | undefined;
  #connected = true;
  /** What was not told while nobody was connected. */
  readonly #untold = new Map<string, Change>();

  private constructor(id: string, directory: string, options: MovingHostOptions) {
    this.id = id;
    this.#directory = directory;
    this.#options = options;
    this.manager = {
      ensure: (command, signal) => this.#answer(({ manager }) => manager.ensure(command, signal)),
      remove: (command, signal) => this.#answer(({ manager }) => manager.remove(command, signal)),
      list: () => this.#life?.manager.list() ?? [],
    };
  }

  static async start(id: string, options: MovingHostOptions): Promise<MovingHost> {
    const host = new MovingHost(id, await mkdtemp(join(tmpdir(), "skerry-moving-")), options);
    await host.revive();
    return host;
  }

  get connected(): boolean {
    return this.#connected && this.#life !== undefined;
  }

  /** Connected again, it tells what had to wait. */
  set connected(connected: boolean) {
    this.#connected = connected;
    if (!this.connected) return;
    for (const change of this.#untold.values()) this.changes.publish(change);
    this.#untold.clear();
  }

  get driver(): FakeDriver {
    return this.#alive().driver;
  }

  folderOf(id: string): string {
    return join(this.#directory, "machines", id);
  }

  /** As `kill -9` leaves it. */
  async kill(): Promise<void> {
    const life = this.#life;
    this.#life = undefined;
    if (!life) return;
    life.stop.abort();
    await life.driver[Symbol.asyncDispose]();
    await life.manager.close({ pullPlugs: false }, never);
  }

  /** A new agent on what the last one left behind. */
  async revive(): Promise<void> {
    const log = silentLogger;
    const changes = new ChangeFeed();
    const driver = new FakeDriver({ log, knobs: this.#options.knobs });
    const deps: MachineDeps = {
      driver,
      images: { ensure: async () => ({ type: "disk", path: "/nowhere", format: "raw" }) },
      ledger: await Ledger.open({ directory: join(this.#directory, "ledger"), log }),
      moves: this.#transport(),
      timing: { ...defaultTiming, backoff: { baseMs: 10, capMs: 20 }, attempts: 4, progressMs: 20 },
      now: Date.now,
      directoryOf: (id) => this.folderOf(id),
      ...{ changes, log },
    };
    const life = { driver, manager: new MachineManager(deps), stop: new AbortController() };
    changes.subscribe((change) => {
      if (!life.stop.signal.aborted) this.#tell(change);
    });
    void life.manager.run(life.stop.signal);
    await recoverMachines(life.manager, deps, never);
    this.#life = life; // an agent serves when it has recovered, and not before
  }

  reply<T>(value: T): T {
    if (this.loseReplies <= 0) return value;
    this.loseReplies--;
    throw cutOff();
  }

  async stop(): Promise<void> {
    await this.kill();
    await rm(this.#directory, { recursive: true, force: true });
  }

  #alive(): Life {
    if (this.#life) return this.#life;
    throw cutOff();
  }

  /** An agent that dies meanwhile has not answered. */
  async #answer<T>(work: (life: Life) => Promise<T>): Promise<T> {
    const life = this.#alive();
    const answer = await work(life);
    if (this.#life === life && this.#connected) return answer;
    throw cutOff();
  }

  #tell(change: Change): void {
    if (this.connected) return this.changes.publish(change);
    this.#untold.set("changed" in change ? change.changed.id : change.removed.id, change);
  }

  #transport(): MoveTransport {
    const { moves } = this.#options;
    return {
      offer: (...cargo) => moves.offer(...cargo),
      pull: (cargo) =>
        moves.pull({
          ...cargo,
          connect: async (channel, signal) => this.#spoil(await cargo.connect(channel, signal)),
        }),
    };
  }

  /** The same connection, by a way on which bits may turn. */
  #spoil(end: Duplex): Duplex {
    const [near, far] = duplexPair();
    const close = () => {
      far.destroy();
      near.destroy();
      end.destroy();
    };
    for (const one of [near, far, end]) one.on("error", close).once("close", close);
    far.on("data", (data: Buffer) => {
      if (this.damaging) data[data.length >> 1]! ^= 1;
      this.damaging = false;
      if (end.write(data)) return;
      far.pause();
      end.once("drain", () => far.resume());
    });
    far.once("end", () => end.end());
    end.pipe(far);
    return near;
  }
}

function cutOff(): Fault {
  return new Fault("unavailable", "the connection was cut off", { reason: "HOST_NOT_CONNECTED" });
}
