/**
 * Moves, as libvirt makes them. Its two daemons talk to one another through a channel of their own and agree on the end
 * themselves, so the source's QEMU is gone when the guest is handed over: a move called off after that starts the guest
 * anew from its disk, which is whole (the ADR on libvirt says why).
 */
import { rm } from "node:fs/promises";
import type { Duplex } from "node:stream";
import { type Move, MoveType } from "#gen/skerry/agent/v1/migration_pb.js";
import { Fault, isFault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { deadline, retry } from "#kernel/retry.ts";
import type { GuestModel, LiveMigration, MachinePlan, MemoryBacklog, SendProgress } from "../driver.ts";
import { connectSocket, machineFiles } from "../hypervisor/files.ts";
import { type Domains, uuidOf } from "./domains.ts";
import type { LifecycleEvent } from "./events.ts";
import {
  clearMeeting,
  connectWhenThere,
  daemonChannel,
  daemonSocket,
  meetingOf,
  moveChannels,
  wasMetBy,
} from "./meeting.ts";
import { parseStats } from "./metrics.ts";
import { isOn } from "./observe.ts";
import { abortJob, Outgoing } from "./outgoing.ts";
import { isMarkedIncoming, markIncoming, prepareFolder, unmarkIncoming } from "./prepare.ts";
import { deriveProgress } from "./progress.ts";
import { ensureLinks, type RuntimeFolder } from "./runtime.ts";
import type { Virsh } from "./virsh.ts";
import { basename, dirname } from "node:path";

export interface MovesOptions {
  readonly uri: string;
  readonly virsh: Virsh;
  readonly domains: Domains;
  readonly runtime: RuntimeFolder;
  readonly guestModel: () => Promise<GuestModel>;
  /** A machine that is received is one of ours from then on. */
  know(plan: MachinePlan): void;
  readonly log: Logger;
  readonly lifetime: AbortSignal;
}

const tellMs = 500;
/** All the way: when the guest is to stop the daemons decide, and they do not wait for what is on its way. */
const backlogBytes = 8 * 1024 * 1024;
/** A daemon that was killed is started again by the system in a moment. */
const daemonBackMs = 15_000;

export class Moves implements LiveMigration {
  readonly guestModel: () => Promise<GuestModel>;
  readonly #options: MovesOptions;
  readonly #outgoing = new Map<string, Outgoing>();
  readonly #incoming = new Map<string, MachinePlan>();
  /** Machines that nobody before us moves any more. */
  readonly #examined = new Set<string>();

  constructor(options: MovesOptions) {
    this.#options = options;
    this.guestModel = options.guestModel;
  }

  async receive(plan: MachinePlan, signal: AbortSignal): Promise<readonly string[]> {
    const { domains, runtime } = this.#options;
    refuseUnlessLive(plan);
    if (!(await domains.isOn(plan.id, signal)) && !this.#incoming.has(plan.id)) {
      await markIncoming(plan.directory);
      await prepareFolder(plan, signal);
      await clearMeeting(meetingOf(runtime, plan.id));
    }
    await ensureLinks(runtime, plan);
    this.#incoming.set(plan.id, plan);
    this.#options.know(plan);
    return moveChannels;
  }

  /** True for a machine that waits here for the other host, with nothing yet that libvirt knew of. */
  isAwaited(id: string): boolean {
    return this.#incoming.has(id);
  }

  async connectChannel(id: string, channel: string, signal: AbortSignal): Promise<Duplex> {
    const { runtime, uri } = this.#options;
    if (channel !== daemonChannel)
      return await connectWhenThere(meetingOf(runtime, id).here(channel), signal);
    await this.#startAfresh(id, signal);
    const socket = daemonSocket(uri, process.env);
    return await connectSocket(dirname(socket), basename(socket), signal);
  }

  async hasArrived(id: string): Promise<boolean> {
    if (!(await this.#arrived(id))) return false;
    const plan = this.#incoming.get(id);
    if (plan) await unmarkIncoming(plan.directory);
    this.#incoming.delete(id);
    return true;
  }

  async listChannels(): Promise<readonly string[]> {
    return moveChannels;
  }

  async *send(
    plan: MachinePlan,
    socketOf: (channel: string) => string,
    signal: AbortSignal,
    backlog?: MemoryBacklog,
  ): AsyncGenerator<SendProgress> {
    const move = refuseUnlessLive(plan);
    backlog?.limit(backlogBytes);
    const { id } = plan;
    const outgoing = await this.#attempt(id, move, socketOf, signal);
    if (!outgoing) {
      yield await this.#handedOver(id, move, signal);
      return;
    }
    if (move.switchOver) outgoing.release(socketOf("memory"));
    for (;;) {
      const progress = await this.#look(id, move, outgoing, signal);
      yield progress;
      if (progress.phase === "handed-over") return;
      await outgoing.changed(tellMs, signal);
    }
  }

  /** Ends whatever move the machine is in, as the intent without one says. Throws MOVE_INCOMPLETE for half a machine. */
  async conclude({ id, directory }: MachinePlan, signal: AbortSignal): Promise<void> {
    if (await isMarkedIncoming(directory)) {
      if (!(await this.#arrived(id)) && !(await this.#isDefined(id, signal))) {
        throw new Fault("conflict", "the machine has not arrived whole", { reason: "MOVE_INCOMPLETE" });
      }
      await unmarkIncoming(directory);
    }
    this.#incoming.delete(id);
    const outgoing = this.#outgoing.get(id);
    if (!outgoing) return await this.#endInherited(id, signal);
    await outgoing.callOff(signal);
    this.#outgoing.delete(id);
    const { domains, log } = this.#options;
    if (!(await domains.isOn(id, signal))) log.warn("move.guest_restarts", { machine: id });
  }

  /** The machine is not here any more. */
  forget(id: string): void {
    this.#incoming.delete(id);
    this.#outgoing.delete(id);
  }

  note({ name, event, detail }: LifecycleEvent): void {
    if (event === "Suspended" && detail === "Migrated") this.#outgoing.get(name)?.noteStopped(Date.now());
  }

  /** The attempt under way, or a new one; undefined when the guest has left already. */
  async #attempt(
    id: string,
    move: Move,
    socketOf: (channel: string) => string,
    signal: AbortSignal,
  ): Promise<Outgoing | undefined> {
    const { uri, virsh, domains, runtime, log, lifetime } = this.#options;
    const known = this.#outgoing.get(id);
    if (known?.migrationId === move.migrationId) return known;
    await (known ? known.callOff(signal) : this.#endInherited(id, signal));
    if (!isOn(await domains.find(id, signal))) {
      if (await this.#hasLeftBy(id, move)) return undefined;
      throw new Fault("conflict", "the machine does not run", { reason: "MACHINE_NOT_RUNNING" });
    }
    const meeting = meetingOf(runtime, id);
    const outgoing = await Outgoing.begin({
      ...{ uuid: uuidOf(id), uri, move, virsh, meeting, socketOf, log, lifetime },
    });
    this.#outgoing.set(id, outgoing);
    return outgoing;
  }

  async #look(id: string, move: Move, outgoing: Outgoing, signal: AbortSignal): Promise<SendProgress> {
    try {
      return await outgoing.look(signal);
    } catch (thrown) {
      // A failed attempt is over, whoever asks next; one that could only not be looked at goes on.
      if (!outgoing.hasFailed || signal.aborted) throw thrown;
      this.#outgoing.delete(id);
      if (await this.#outlived(id, move, signal)) return await this.#handedOver(id, move, signal);
      throw thrown;
    }
  }

  /**
   * A daemon that was killed says nothing of the attempt's end, or the wrong thing: what it says of the machine once it
   * is back is what counts. True when the guest has left all the same. Else it runs on here, as after every failure.
   */
  async #outlived(id: string, move: Move, signal: AbortSignal): Promise<boolean> {
    const { domains, virsh, log } = this.#options;
    using limit = deadline(daemonBackMs, "libvirt's return", signal);
    try {
      const options = { attempts: 1000, baseMs: 100, capMs: 1000, signal: limit };
      // Whoever gave the command may have been killed, and the daemon still be about it.
      await retry(() => this.#endJob(id, limit), options);
      const found = await domains.find(id, limit);
      if (!isOn(found)) return await this.#hasLeftBy(id, move);
      // Not handed over, so nobody else will ever run it under this migration.
      if (found.state === "paused") await virsh.run(["resume", uuidOf(id)], { signal: limit });
    } catch (thrown) {
      if (signal.aborted) throw thrown;
      log.warn("move.outcome_unclear", { machine: id, fault: toFault(thrown) }); // the next command looks again
    }
    return false;
  }

  /** Whether the guest left this host by this very move, as far as libvirt remembers. */
  async #hasLeftBy(id: string, { migrationId }: Move): Promise<boolean> {
    if (!(await wasMetBy(meetingOf(this.#options.runtime, id), migrationId))) return false;
    return (await this.#reasonOf(id)).includes("(migrated)");
  }

  async #arrived(id: string): Promise<boolean> {
    const { domains, lifetime } = this.#options;
    if (!(await domains.isOn(id, lifetime))) return false;
    return !/\((migrating|starting up)\)/.test(await this.#reasonOf(id));
  }

  /** libvirt keeps a machine that is off only if it had arrived whole: its disk has all, whatever ended it since. */
  async #isDefined(id: string, signal: AbortSignal): Promise<boolean> {
    const { virsh, domains } = this.#options;
    const found = await domains.find(id, signal);
    if (!found || isOn(found)) return false;
    const info = parseStats(await virsh.run(["dominfo", uuidOf(id)], { signal }));
    return info.get("Persistent") === "yes";
  }

  /** Gives up what an agent that was killed had begun and libvirt may still be about. Looked for once. */
  async #endInherited(id: string, signal: AbortSignal): Promise<void> {
    if (this.#examined.has(id)) return;
    await this.#endJob(id, signal);
    this.#examined.add(id);
  }

  /** Returns when libvirt is about no move of the machine from here. */
  async #endJob(id: string, signal: AbortSignal): Promise<void> {
    const { virsh, domains, log } = this.#options;
    const uuid = uuidOf(id);
    const isOver = async () => {
      if (!(await domains.isOn(id, signal))) return true;
      try {
        return !(await virsh.run(["domjobinfo", uuid], { signal })).includes("Outgoing migration");
      } catch (error) {
        // It ended between the two questions, and its job with it.
        if (isFault(error, "conflict") && error.reason === "DOMAIN_NOT_RUNNING") return true;
        throw error;
      }
    };
    await abortJob({ virsh, uuid, log }, isOver, signal);
  }

  /** An agent that was killed after it handed over finds it done; libvirt remembers how long it took. */
  async #handedOver(id: string, move: Move, signal: AbortSignal): Promise<SendProgress> {
    const command = ["domjobinfo", uuidOf(id), "--rawstats", "--completed", "--keep-completed"];
    const stats = parseStats(await this.#options.virsh.run(command, { signal }));
    const { maxDowntimeMs } = move;
    return deriveProgress({ phase: "handed-over", stats, maxDowntimeMs, stoppedAtMs: undefined });
  }

  /** What an earlier attempt left of the disk would show through where the source's has nothing. */
  async #startAfresh(id: string, signal: AbortSignal): Promise<void> {
    const plan = this.#incoming.get(id);
    if (!plan || (await this.#options.domains.isOn(id, signal))) return;
    await rm(machineFiles(plan.directory).rootDisk, { force: true });
    await prepareFolder(plan, signal);
  }

  async #reasonOf(id: string): Promise<string> {
    const { virsh, lifetime } = this.#options;
    return await virsh.run(["domstate", uuidOf(id), "--reason"], { signal: lifetime });
  }
}

function refuseUnlessLive({ spec }: MachinePlan): Move {
  if (spec.adoption) {
    throw new Fault("conflict", "a machine that was adopted stays on its host", { reason: "ADOPTED_STAYS" });
  }
  if (spec.move && spec.move.type !== MoveType.COLD) return spec.move;
  throw new Fault("conflict", "libvirt moves machines that run", { reason: "MOVE_UNSUPPORTED" });
}
