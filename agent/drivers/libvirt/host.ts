/** What the driver needs of the host, found out before the agent does anything: that it is missing is told at the start. */
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { Library, loadBinding, type Reader } from "./library.ts";
import { createVirsh, type Virsh } from "./virsh.ts";
import { VirshLibrary } from "./virsh-library.ts";
import { parse, select, textAt } from "./xml.ts";

export interface LibvirtHost {
  readonly library: Reader;
  readonly virsh: Virsh;
  readonly version: string;
  /** `+uid:+gid` of this process, where QEMU can be run as it: the machine's files are ours. */
  readonly runAs: string | undefined;
}

export interface HostOptions {
  readonly uri: string;
  readonly log: Logger;
  /** Loads the binding. */
  readonly load?: () => Promise<unknown>;
}

/** Opens libvirt, without its binding if need be. Throws `unavailable` PROGRAM_MISSING or LIBVIRT_UNREACHABLE. */
export async function openHost({ uri, log, load }: HostOptions, signal: AbortSignal): Promise<LibvirtHost> {
  const virsh = createVirsh(uri);
  const version = /library: libvirt (\S+)/.exec(await virsh.run(["version"], { signal }))?.[1];
  if (version === undefined) {
    throw new Fault("unavailable", "libvirt does not tell its version", { reason: "LIBVIRT_FAILED" });
  }
  const runAs = deriveRunAs(await virsh.run(["capabilities"], { signal, timeoutMs: capabilitiesMs }));
  const library = await openLibrary(uri, virsh, log, load);
  return { library, virsh, version: library instanceof Library ? version : `${version} by virsh`, runAs };
}

async function openLibrary(
  uri: string,
  virsh: Virsh,
  log: Logger,
  load: HostOptions["load"],
): Promise<Reader> {
  try {
    return new Library({ binding: await loadBinding(load), uri });
  } catch (fault) {
    log.warn("libvirt.without_binding", { fault });
    return new VirshLibrary(virsh);
  }
}

/** A daemon that is asked for the first time tries out every QEMU of the host. */
const capabilitiesMs = 180_000;

/** Whom QEMU can be run as: us, if the daemon chooses at all. Pure but for this process's ids. */
export function deriveRunAs(capabilities: string): string | undefined {
  const models = select(parse(capabilities), "host", "secmodel").map((model) => textAt(model, "model"));
  const [uid, gid] = [process.getuid?.(), process.getgid?.()];
  if (!models.includes("dac") || uid === undefined || gid === undefined) return undefined;
  return `+${String(uid)}:+${String(gid)}`;
}
