/**
 * Machines that somebody else made and that were adopted. They keep their name, uuid, description and disk, wherever
 * that is; a mark in their metadata says whose they are, and is all that is needed to find them again: a domain without
 * our mark is not touched. What of them was changed by hand in the meantime is as good as what was there before.
 */
import { existsSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import type { Duplex } from "node:stream";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { Power } from "#gen/skerry/agent/v1/machine_pb.js";
import type { AdoptionEnd, DriverMachine, DriverMetrics, ForeignMachine, MachinePlan } from "../driver.ts";
import { metadataNamespace } from "./domain-xml.ts";
import { describeForeign, parseDomainStats, readDisks } from "./foreign.ts";
import { ForeignConsoles, readSerialPort } from "./foreign-console.ts";
import type { LibvirtHost } from "./host.ts";
import type { FoundDomain } from "./library.ts";
import { parseStats, readMetrics, statOf } from "./metrics.ts";
import {
  derivePendingRestart,
  isAskedToStop,
  isOn,
  isOurs,
  readAdopter,
  readSize,
  readStart,
  stateOf,
  toMemoryBytes,
} from "./observe.ts";
import { askToStop, destroyDomain, type Stoppable, stopDomain } from "./stop.ts";
import { element, render } from "./xml.ts";

type Transition = "starting" | "stopping";
/** Runs work that the machine's state tells of meanwhile. */
export type During = (transition: Transition, work: () => Promise<void>) => Promise<void>;

const startLimitMs = 120_000;
/** The disk stays, so its guest may put it in order. */
const lastStopMs = 30_000;

export class Adopted implements AsyncDisposable {
  readonly #host: LibvirtHost;
  readonly #consoles: ForeignConsoles;
  /** Of those that were seen: the domain's uuid by the machine's id, and the machine's id by the domain's name. */
  readonly #uuids = new Map<string, string>();
  readonly #ids = new Map<string, string>();

  constructor(host: LibvirtHost, options: { readonly log: Logger; readonly lifetime: AbortSignal }) {
    this.#host = host;
    this.#consoles = new ForeignConsoles(options);
  }

  /** The machine that a domain of this name is. */
  idOf(domainName: string): string | undefined {
    return this.#ids.get(domainName);
  }

  /** Everything on the host that is neither of our making nor adopted here. */
  async listForeign(signal: AbortSignal): Promise<readonly ForeignMachine[]> {
    const domains = await this.#host.library.list(signal);
    const foreign = domains.filter((found) => !isOurs(found) && !this.#isAdoptedHere(found));
    if (foreign.length === 0) return [];
    const stats = await this.#host.virsh.run(["domstats", "--block", "--nowait", "--list-persistent"], {
      signal,
    });
    const all = parseDomainStats(stats);
    return foreign.map((found) => describeForeign(found, all));
  }

  /** Takes the machine over, if that has not been done, and brings it to its plan. */
  async ensure(plan: MachinePlan, during: During, signal: AbortSignal): Promise<void> {
    const { spec } = plan;
    await mkdir(plan.directory, { recursive: true, mode: 0o700 });
    let found = await this.#claim(plan, signal);
    if (isOn(found) && (spec.power === Power.OFF || isAskedToStop(found))) {
      const domain = this.#stoppable(found.uuid, signal);
      await during("stopping", async () => {
        await askToStop(domain, signal);
        await stopDomain(domain, spec.stopTimeoutSeconds * 1000, signal);
      });
      found = await this.#find(plan, signal);
    }
    if (spec.power !== Power.ON) return;
    const { uuid } = found;
    if (!isOn(found)) await during("starting", () => this.#start(plan, uuid, signal));
    await this.#converge(plan, await this.#find(plan, signal), signal);
  }

  /** The machine as it is; undefined when libvirt has none of its uuid that is marked as it. */
  async observe(
    plan: MachinePlan,
    transition: Transition | undefined,
    signal: AbortSignal,
  ): Promise<DriverMachine | undefined> {
    const found = await this.#host.library.find(uuidOf(plan), signal);
    if (!found || readAdopter(found) !== plan.id) return undefined;
    this.#know(plan.id, found);
    await this.#consoles.follow(plan.id, plan.directory, readSerialPort(found));
    const { vcpus, memoryBytes } = isOn(found) ? readSize(found) : plan.spec;
    return {
      ...{ id: plan.id, vcpus, memoryBytes, guestAddress: "", forwards: [] },
      state: transition ?? stateOf(found),
      diskBytes: await this.#diskBytes(found, signal),
      pendingRestart: isOn(found) ? derivePendingRestart(plan.spec, readSize(found)) : [],
      startedAt: isOn(found) ? readStart(found) : undefined,
      acceleration: !isOn(found) ? "none" : found.description.attributes["type"] === "kvm" ? "kvm" : "tcg",
    };
  }

  async isOn(plan: MachinePlan, signal: AbortSignal): Promise<boolean> {
    return isOn(await this.#host.library.find(uuidOf(plan), signal));
  }

  async connectConsole(plan: MachinePlan, signal: AbortSignal): Promise<Duplex> {
    if (await this.isOn(plan, signal)) return await this.#consoles.connect(plan.id);
    throw new Fault("conflict", "the machine does not run", { reason: "MACHINE_NOT_RUNNING" });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#consoles[Symbol.asyncDispose]();
  }

  async metrics(plan: MachinePlan, signal: AbortSignal): Promise<DriverMetrics | undefined> {
    const found = await this.#host.library.find(uuidOf(plan), signal);
    if (!isOn(found)) return undefined;
    return await readMetrics(this.#host.virsh, { uuid: found.uuid, target: diskOf(found).target }, signal);
  }

  /** Ends the adoption of a machine, in a way that may be repeated. False: no domain is marked as it. */
  async end(id: string, how: AdoptionEnd, signal: AbortSignal): Promise<boolean> {
    const { library, virsh } = this.#host;
    const uuid = this.#uuids.get(id);
    const candidates = uuid === undefined ? await library.list(signal) : [await library.find(uuid, signal)];
    const found = candidates.find((each) => each && !isOurs(each) && readAdopter(each) === id);
    if (!found) return false;
    await this.#consoles.hangUp(id);
    const domain = this.#stoppable(found.uuid, signal);
    if (how === "stop" && isOn(found)) await stopDomain(domain, lastStopMs, signal);
    if (how === "delete") {
      if (isOn(found)) await destroyDomain(domain, signal);
      for (const { type, source } of readDisks(found)) {
        // A volume of the host's storage can be deleted by libvirt only; one that is gone was deleted the last time.
        if (type === "file") await rm(source, { force: true });
        else if (existsSync(source)) await virsh.run(["vol-delete", source], { signal });
      }
      const leftovers = ["--managed-save", "--snapshots-metadata", "--checkpoints-metadata", "--nvram"];
      await virsh.run(["undefine", found.uuid, ...leftovers], { signal });
    } else {
      const where = (await domain.isOn()) ? ["--live", "--config"] : ["--config"];
      await virsh.run(["metadata", found.uuid, ...markArguments, "--remove", ...where], { signal });
    }
    this.#uuids.delete(id);
    this.#ids.delete(found.name);
    return true;
  }

  /** Marks the domain as ours, unless it is; from then on nobody else takes it. */
  async #claim(plan: MachinePlan, signal: AbortSignal): Promise<FoundDomain> {
    const found = await this.#find(plan, signal);
    if (readAdopter(found) === plan.id) return found;
    const [foreign] = (await this.listForeign(signal)).filter(({ uuid }) => uuid === found.uuid);
    const { obstacles = [] } = foreign ?? {};
    if (obstacles.length > 0) {
      throw new Fault(
        "invalid",
        `it cannot be adopted: ${obstacles.map(({ message }) => message).join("; ")}`,
        {
          reason: "NOT_ADOPTABLE",
          detail: { obstacles: obstacles.map(({ code }) => code) },
        },
      );
    }
    await this.#mark(plan.id, found, undefined, signal);
    return await this.#find(plan, signal);
  }

  async #mark(
    id: string,
    found: FoundDomain,
    startedAtMs: number | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    const mark = render(element("machine", { id, "started-at-ms": startedAtMs })).trim();
    const where = isOn(found) ? ["--live", "--config"] : ["--config"];
    const { virsh } = this.#host;
    await virsh.run(["metadata", found.uuid, ...markArguments, "--key", "skerry", "--set", mark, ...where], {
      signal,
    });
    this.#know(id, found);
  }

  /** Starts it with the size that its owner wants by now. */
  async #start(plan: MachinePlan, uuid: string, signal: AbortSignal): Promise<void> {
    const { virsh } = this.#host;
    const found = await this.#find(plan, signal);
    const configure = (...args: string[]) => virsh.run([...args, "--config"], { signal });
    const { vcpus, memoryBytes } = plan.spec;
    const size = readSize(found);
    if (vcpus > size.maxVcpus) await configure("setvcpus", uuid, String(vcpus), "--maximum");
    if (vcpus !== size.vcpus) await configure("setvcpus", uuid, String(vcpus));
    if (derivePendingRestart(plan.spec, { ...size, vcpus }).length > 0) {
      const kibibytes = String(toMemoryBytes(memoryBytes) / 1024n);
      await configure("setmaxmem", uuid, kibibytes);
      await configure("setmem", uuid, kibibytes);
    }
    await this.#mark(plan.id, found, Date.now(), signal);
    await virsh.run(["start", uuid], { signal, timeoutMs: startLimitMs });
  }

  /** Gives the running machine what the plan has more than it. */
  async #converge({ spec }: MachinePlan, found: FoundDomain, signal: AbortSignal): Promise<void> {
    const { virsh } = this.#host;
    const { uuid } = found;
    if (found.state === "paused") await virsh.run(["resume", uuid], { signal });
    if ((await this.#diskBytes(found, signal)) < spec.diskBytes) {
      await virsh.run(["blockresize", uuid, diskOf(found).target, `${String(spec.diskBytes)}B`], { signal });
    }
    const { vcpus, maxVcpus } = readSize(found);
    const reachable = Math.min(spec.vcpus, maxVcpus);
    if (reachable > vcpus) await virsh.run(["setvcpus", uuid, String(reachable), "--live"], { signal });
  }

  async #find(plan: MachinePlan, signal: AbortSignal): Promise<FoundDomain> {
    const found = await this.#host.library.find(uuidOf(plan), signal);
    if (found) return found;
    throw new Fault("notFound", "libvirt has no such machine any more", { reason: "DOMAIN_MISSING" });
  }

  async #diskBytes(found: FoundDomain, signal: AbortSignal): Promise<bigint> {
    const command = ["domblkinfo", found.uuid, diskOf(found).target];
    return BigInt(statOf(parseStats(await this.#host.virsh.run(command, { signal })), "Capacity"));
  }

  #know(id: string, { uuid, name }: FoundDomain): void {
    this.#uuids.set(id, uuid);
    this.#ids.set(name, id);
  }

  #isAdoptedHere(found: FoundDomain): boolean {
    const id = readAdopter(found);
    return id !== undefined && this.#uuids.get(id) === found.uuid;
  }

  #stoppable(uuid: string, signal: AbortSignal): Stoppable {
    const { virsh, library } = this.#host;
    return { uuid, virsh, isOn: async () => isOn(await library.find(uuid, signal)) };
  }
}

const markArguments = ["--uri", metadataNamespace];

function uuidOf({ spec }: MachinePlan): string {
  return spec.adoption?.uuid ?? "";
}

/** The one that can be written to; there is no other in what can be adopted. */
function diskOf(found: FoundDomain): ReturnType<typeof readDisks>[number] {
  const [disk] = readDisks(found);
  if (disk) return disk;
  throw new Fault("conflict", "the machine has no disk any more", { reason: "DISK_MISSING" });
}
