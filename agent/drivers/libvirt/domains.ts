/** Our domains: how a plan becomes one, and what is done to it. Each is known by the uuid derived from the machine's id. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Fault } from "#kernel/fault.ts";
import type { MachinePlan } from "../driver.ts";
import { findDiskBytes } from "../hypervisor/disk.ts";
import { machineFiles } from "../hypervisor/files.ts";
import { ensureForwards } from "../hypervisor/forwards.ts";
import type { HostAbilities } from "../hypervisor/host.ts";
import { deriveIdentity } from "../hypervisor/identity.ts";
import type { Platform } from "../hypervisor/platform.ts";
import type { Forward } from "../hypervisor/forwards.ts";
import { deriveDomain, rootTarget } from "./domain-xml.ts";
import type { LibvirtHost } from "./host.ts";
import type { FoundDomain } from "./library.ts";
import { isOn, readSize, toMemoryBytes } from "./observe.ts";
import { domainPaths, ensureLinks, removeLinks, type RuntimeFolder } from "./runtime.ts";
import { askToStop, destroyDomain, type Stoppable, stopDomain } from "./stop.ts";
import { render } from "./xml.ts";

export interface DomainsOptions {
  readonly host: LibvirtHost;
  readonly runtime: RuntimeFolder;
  readonly platform: Platform;
  readonly abilities: () => Promise<HostAbilities>;
}

/** Room to grow: what is plugged in needs a slot that was there from the start. */
const minimumMaxVcpus = 8;
/** QEMU starts in a second or two; a daemon that is asked for the first time tries out QEMU before. */
const startLimitMs = 120_000;
/** libvirt's name for the netdev of the first network card. */
const netdev = "hostnet0";

export class Domains {
  readonly #options: DomainsOptions;
  readonly #forwards = new Map<string, readonly Forward[]>();

  constructor(options: DomainsOptions) {
    this.#options = options;
  }

  /** The machine's domain; undefined when libvirt has none. */
  find(id: string, signal: AbortSignal): Promise<FoundDomain | undefined> {
    return this.#options.host.library.find(uuidOf(id), signal);
  }

  async isOn(id: string, signal: AbortSignal): Promise<boolean> {
    return isOn(await this.find(id, signal));
  }

  forwardsOf(id: string): readonly Forward[] {
    return this.#forwards.get(id) ?? [];
  }

  /** Describes the machine to libvirt, as it will be at its next start. */
  async define(plan: MachinePlan, signal: AbortSignal, startedAtMs?: number): Promise<void> {
    const { host, runtime, platform, abilities } = this.#options;
    const { id, spec, image } = plan;
    const { acceleration } = await abilities();
    await ensureLinks(runtime, plan);
    const description = deriveDomain(
      {
        ...{ id, startedAtMs, identity: deriveIdentity(id), paths: domainPaths(runtime, id) },
        kernel: image.type === "kernel" ? image : undefined,
        vcpus: spec.vcpus,
        maxVcpus: Math.max(minimumMaxVcpus, spec.vcpus),
        memoryBytes: toMemoryBytes(spec.memoryBytes),
      },
      { platform, acceleration, runAs: host.runAs },
    );
    // virsh reads files only, and Node's pipes are sockets, which cannot be opened by a name.
    const file = join(plan.directory, "domain.xml");
    await writeFile(file, render(description), { mode: 0o600 });
    await host.virsh.run(["define", file], { signal });
  }

  async start(plan: MachinePlan, signal: AbortSignal): Promise<void> {
    await this.define(plan, signal, Date.now());
    const uuid = uuidOf(plan.id);
    await this.#options.host.virsh.run(["start", uuid], { signal, timeoutMs: startLimitMs });
  }

  async stop({ id, spec }: MachinePlan, signal: AbortSignal): Promise<void> {
    const domain = this.#stoppable(id, signal);
    await askToStop(domain, signal);
    await stopDomain(domain, spec.stopTimeoutSeconds * 1000, signal);
  }

  /** Ends the machine at once and has libvirt forget it. */
  async remove(id: string, signal: AbortSignal): Promise<void> {
    const { host, runtime } = this.#options;
    this.#forwards.delete(id);
    const found = await this.find(id, signal);
    if (isOn(found)) await destroyDomain(this.#stoppable(id, signal), signal);
    const leftovers = ["--managed-save", "--snapshots-metadata", "--checkpoints-metadata", "--nvram"];
    // A domain that had only been on its way here is gone with its end.
    if (await this.find(id, signal)) await host.virsh.run(["undefine", uuidOf(id), ...leftovers], { signal });
    await removeLinks(runtime, id);
  }

  /** Whether a guest that stands still does so because of a full disk. */
  async lacksRoom(id: string, signal: AbortSignal): Promise<boolean> {
    const told = await this.#options.host.virsh.run(["domblkerror", uuidOf(id)], { signal });
    return told.includes("no space");
  }

  /** Gives the running machine what the plan has more than it. Memory is for its next start. */
  async converge(plan: MachinePlan, signal: AbortSignal): Promise<void> {
    const { id, spec, directory } = plan;
    const { virsh } = this.#options.host;
    const uuid = uuidOf(id);
    const found = await this.find(id, signal);
    if (!isOn(found)) {
      throw new Fault("unavailable", "the machine ended as soon as it had started", {
        reason: "MACHINE_ENDED_AT_START",
      });
    }
    // It arrived from another host, or stood still because the host's disk was full.
    if (found.state === "paused") await virsh.run(["resume", uuid], { signal });
    const diskBytes = await findDiskBytes(machineFiles(directory).rootDisk);
    if (diskBytes !== undefined && diskBytes < spec.diskBytes) {
      await virsh.run(["blockresize", uuid, rootTarget, `${String(spec.diskBytes)}B`], { signal });
    }
    const { vcpus, maxVcpus } = readSize(found);
    // They are never unplugged: that has broken QEMU.
    const reachable = Math.min(spec.vcpus, maxVcpus);
    if (reachable > vcpus) await virsh.run(["setvcpus", uuid, String(reachable), "--live"], { signal });
    await this.#ensureForwards(plan, signal);
  }

  async #ensureForwards({ id, spec }: MachinePlan, signal: AbortSignal): Promise<void> {
    const before = this.forwardsOf(id);
    if (spec.forwards.length === 0 && this.#forwards.has(id) && before.length === 0) return;
    const { virsh } = this.#options.host;
    const monitor = {
      execute: (_command: string, args: { readonly "command-line": string }) =>
        virsh.run(["qemu-monitor-command", uuidOf(id), "--hmp", args["command-line"]], { signal }),
    };
    const guestAddress = deriveIdentity(id).network.guest;
    const wish = { id, guestAddress, wanted: spec.forwards, before, netdev };
    this.#forwards.set(id, await ensureForwards(monitor, wish, signal));
  }

  #stoppable(id: string, signal: AbortSignal): Stoppable {
    return { uuid: uuidOf(id), virsh: this.#options.host.virsh, isOn: () => this.isOn(id, signal) };
  }
}

export function uuidOf(id: string): string {
  return deriveIdentity(id).uuid;
}
