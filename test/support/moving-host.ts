/**
 * A host of a world of engines whose machines move: real managers and ledgers on a folder, over fake machines that
 * live on when the agent is killed, as a hypervisor's do. What goes in and out can be lost, doubled, late and spoilt.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { duplexPair, type Duplex } from "node:stream";
import type { MachineDriver, MachinePlan } from "#agent/drivers/driver.ts";
import { FakeDriver } from "#agent/drivers/fake/driver.ts";
import type { FakeKnobs } from "#agent/drivers/fake/knobs.ts";
import { ChangeFeed, type Change } from "#agent/machines/change-feed.ts";
import { compareFences, type Fence } from "#agent/machines/fence.ts";
import { Ledger } from "#agent/machines/ledger.ts";
import { defaultTiming, type MachineDeps } from "#agent/machines/machine-deps.ts";
import { MachineManager } from "#agent/machines/manager.ts";
import type { MoveOffer, MovePull, MoveTransport } from "#agent/machines/move-transport.ts";
import { recoverMachines } from "#agent/machines/recover.ts";
import type { Machine } from "#gen/skerry/agent/v1/machine_pb.js";
import { MovePhase, MoveRole } from "#gen/skerry/agent/v1/migration_pb.js";
import { Fault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";
import type { WorldAgent } from "./engine-world.ts";
import { Life } from "./life.ts";

const never = new AbortController().signal;

/** What may happen to the next of what goes in or out. */
export const mishaps = [
  "command lost",
  "command late, its sender gone",
  "command doubled",
  "answer lost",
  "no room for a command",
  "report late",
  "report doubled",
  "bit turned",
] as const;
export type Mishap = (typeof mishaps)[number];

export interface MovingHostOptions {
  readonly moves: MoveTransport;
  readonly knobs: Partial<FakeKnobs>;
  /** Told of each mishap when it has happened. */
  readonly onMishap?: (mishap: Mishap) => void;
  /** How late something is, in milliseconds. */
  readonly lateMs?: () => number;
}

interface Agent {
  readonly life: Life;
  readonly ledger: Ledger;
  readonly manager: MachineManager;
  readonly open: Set<MoveOffer | MovePull>;
}

export class MovingHost implements WorldAgent {
  readonly id: string;
  readonly changes = new ChangeFeed();
  readonly commands: string[] = [];
  readonly manager: WorldAgent["manager"];
  readonly driver: FakeDriver;
  /** What it told and must never tell: that a command counts which is older than one that counted before. */
  readonly seen: string[] = [];
  readonly #fences = new Map<string, Fence>();
  readonly #directory: string;
  readonly #options: MovingHostOptions;
  readonly #due = new Map<Mishap, number>();
  readonly #late = new Set<NodeJS.Timeout>();
  #agent: Agent | undefined;
  #lives = 0;
  #connected = true;
  /** What was not told while nobody was connected. */
  readonly #untold = new Map<string, Change>();

  private constructor(id: string, directory: string, options: MovingHostOptions) {
    this.id = id;
    this.#directory = directory;
    this.#options = options;
    this.driver = new FakeDriver({ log: silentLogger, knobs: options.knobs });
    this.manager = {
      ensure: (command, signal) => this.#answer((manager) => manager.ensure(command, signal)),
      remove: (command, signal) => this.#answer((manager) => manager.remove(command, signal)),
      list: () => this.#agent?.manager.list() ?? [],
    };
  }

  static async start(id: string, options: MovingHostOptions): Promise<MovingHost> {
    const host = new MovingHost(id, await mkdtemp(join(tmpdir(), "skerry-moving-")), options);
    await host.revive();
    return host;
  }

  get connected(): boolean {
    return this.#connected && this.#agent !== undefined;
  }

  /** Connected again, it tells what had to wait. */
  set connected(connected: boolean) {
    this.#connected = connected;
    if (!this.connected) return;
    for (const change of this.#untold.values()) this.changes.publish(change);
    this.#untold.clear();
  }

  /** So much happens to the next that comes by. */
  suffer(mishap: Mishap, times = 1): void {
    this.#due.set(mishap, Math.min(3, (this.#due.get(mishap) ?? 0) + times));
  }

  /** Nothing more happens to it. */
  calm(): void {
    this.#due.clear();
    this.driver.set({ failures: [] });
  }

  /** Whether the record lets the machine run here, as far as its agent has written down. */
  mayRun(id: string): boolean {
    const { intent, progress } = this.#agent?.ledger.find(id) ?? {};
    const move = intent?.spec?.move;
    if (!move) return true;
    if (move.role === MoveRole.DESTINATION) return move.committed;
    return progress?.move?.phase !== MovePhase.HANDED_OVER;
  }

  folderOf(id: string): string {
    return join(this.#directory, "machines", id);
  }

  /** As `kill -9` leaves it: only its machines and its ledger live on. */
  async kill(): Promise<void> {
    const agent = this.#agent;
    this.#agent = undefined;
    if (!agent) return;
    const ended = agent.life.kill();
    for (const stream of agent.open) await stream[Symbol.asyncDispose]();
    await ended;
    await agent.ledger.settled();
  }

  /** A new agent on what the last one left behind. */
  async revive(): Promise<void> {
    const log = silentLogger;
    const life = new Life();
    const open: Agent["open"] = new Set();
    const changes = new ChangeFeed();
    const ledger = await Ledger.open({ directory: join(this.#directory, "ledger"), log });
    const deps: MachineDeps = {
      driver: life.share(this.#found()),
      images: { ensure: async () => ({ type: "disk", path: "/nowhere", format: "raw" }) },
      ledger: life.share(this.#mayBeFull(ledger)),
      moves: this.#transport(life, open),
      timing: { ...defaultTiming, backoff: { baseMs: 10, capMs: 20 }, attempts: 4, progressMs: 100 },
      now: Date.now,
      directoryOf: (id) => this.folderOf(id),
      ...{ changes, log },
    };
    const manager = new MachineManager(deps);
    changes.subscribe((change) => {
      if (life.isOver) return;
      if ("changed" in change) this.#checkFence(change.changed);
      this.#tell(change);
    });
    void manager.run(life.signal);
    await recoverMachines(manager, deps, never);
    this.#lives++;
    this.#agent = { life, ledger, manager, open }; // an agent serves when it has recovered, and not before
  }

  reply<T>(value: T): T {
    if (!this.#happens("answer lost")) return value;
    throw cutOff();
  }

  async stop(): Promise<void> {
    for (const timer of this.#late) clearTimeout(timer);
    await this.kill();
    await this.driver[Symbol.asyncDispose]();
    await rm(this.#directory, { recursive: true, force: true });
  }

  /** Its machines as the first agent finds them in their folders, and every later one as they go on. */
  #found(): MachineDriver {
    const { driver } = this;
    if (this.#lives === 0) return driver;
    const recover = async (plans: readonly MachinePlan[]) => {
      const found = await Promise.all(plans.map(({ id }) => driver.inspect(id)));
      return found.filter((machine) => machine !== undefined);
    };
    return replace(driver, { recover });
  }

  #mayBeFull(ledger: Ledger): Ledger {
    const accept: Ledger["accept"] = async (...command) => {
      if (!this.#happens("no room for a command")) return ledger.accept(...command);
      throw new Fault("exhausted", "the host's disk is full", { reason: "HOST_DISK_FULL" });
    };
    return replace(ledger, { accept });
  }

  /** An agent that dies meanwhile has not answered. */
  async #answer<T>(work: (manager: MachineManager) => Promise<T>): Promise<T> {
    const agent = this.#alive();
    if (this.#happens("command lost")) throw cutOff();
    if (this.#happens("command late, its sender gone")) {
      this.#later(() => void (this.#agent && refused(work(this.#agent.manager))));
      throw cutOff();
    }
    if (this.#happens("command doubled")) void refused(work(agent.manager));
    const answer = await Promise.race([work(agent.manager), agent.life.ended.then(() => undefined)]);
    if (agent.life.isOver || answer === undefined) throw cutOff();
    if (this.#connected) return answer;
    throw cutOff();
  }

  #alive(): Agent {
    if (this.#agent) return this.#agent;
    throw cutOff();
  }

  #tell(change: Change): void {
    if (!this.connected) {
      this.#untold.set("changed" in change ? change.changed.id : change.removed.id, change);
      return;
    }
    if (this.#happens("report late")) return this.#later(() => this.changes.publish(change));
    if (this.#happens("report doubled")) this.#later(() => this.changes.publish(change));
    this.changes.publish(change);
  }

  #checkFence({ id, fence }: Machine): void {
    const before = this.#fences.get(id);
    if (!fence) return;
    if (before && compareFences(fence, before) < 0) this.seen.push(`${id} went back to an older command`);
    this.#fences.set(id, fence);
  }

  #happens(mishap: Mishap): boolean {
    const left = this.#due.get(mishap) ?? 0;
    if (left === 0) return false;
    this.#due.set(mishap, left - 1);
    this.#options.onMishap?.(mishap);
    return true;
  }

  #later(work: () => void): void {
    const timer = setTimeout(() => {
      this.#late.delete(timer);
      work();
    }, this.#options.lateMs?.() ?? 0);
    this.#late.add(timer);
  }

  #transport(life: Life, open: Agent["open"]): MoveTransport {
    const { moves } = this.#options;
    const keep = <T extends MoveOffer | MovePull>(stream: T): T => {
      open.add(stream);
      if (life.isOver) void life.hold(Promise.resolve(stream[Symbol.asyncDispose]()));
      return stream;
    };
    return {
      offer: (...cargo) => life.hold(moves.offer(...cargo).then(keep)),
      pull: (cargo) =>
        keep(
          moves.pull({
            ...cargo,
            connect: async (channel, signal) => this.#spoil(await cargo.connect(channel, signal)),
          }),
        ),
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
      if (this.#happens("bit turned")) data[data.length >> 1]! ^= 1;
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

/** Its sender hears nothing of it: that it is refused is an answer as good as another. */
async function refused(command: Promise<unknown>): Promise<void> {
  await command.catch(() => undefined);
}

/** The same thing with some of its methods replaced. */
function replace<T extends object>(thing: T, methods: Partial<T>): T {
  return new Proxy(thing, {
    get: (_, name) => {
      if (name in methods) return methods[name as keyof T];
      const member: unknown = Reflect.get(thing, name, thing);
      return typeof member === "function" ? (member.bind(thing) as unknown) : member;
    },
  });
}
