/**
 * What the binding tells, told by virsh, for hosts where the binding could not be built: the same answers, each for the
 * price of a process or two.
 */
import { isFault } from "#kernel/fault.ts";
import type { DomainState, FoundDomain, Reader } from "./library.ts";
import type { Virsh } from "./virsh.ts";
import { parse, textAt } from "./xml.ts";

/** libvirt's own words; the rest are shades of off. */
const states: Readonly<Record<string, DomainState>> = {
  running: "running",
  idle: "running",
  paused: "paused",
  "in shutdown": "stopping",
  pmsuspended: "paused",
};

export class VirshLibrary implements Reader {
  readonly #virsh: Virsh;

  constructor(virsh: Virsh) {
    this.#virsh = virsh;
  }

  async find(uuid: string, signal: AbortSignal): Promise<FoundDomain | undefined> {
    try {
      const description = parse(await this.#virsh.run(["dumpxml", uuid], { signal }));
      const state = (await this.#virsh.run(["domstate", uuid], { signal })).trim();
      return { uuid, name: textAt(description, "name"), state: states[state] ?? "off", description };
    } catch (thrown) {
      if (isFault(thrown, "notFound")) return undefined;
      throw thrown;
    }
  }

  async list(signal: AbortSignal): Promise<readonly FoundDomain[]> {
    const uuids = (await this.#virsh.run(["list", "--all", "--uuid"], { signal }))
      .split(/\s+/)
      .filter(Boolean);
    const found: FoundDomain[] = [];
    for (const uuid of uuids) {
      const domain = await this.find(uuid, signal);
      if (domain) found.push(domain);
    }
    return found;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
