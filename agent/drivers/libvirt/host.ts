/** What the driver needs of the host, found out before the agent does anything: that it is missing is told at the start. */
import { Fault } from "#kernel/fault.ts";
import { type Binding, Library, loadBinding } from "./library.ts";
import { createVirsh, type Virsh } from "./virsh.ts";
import { parse, select, textAt } from "./xml.ts";

export interface LibvirtHost {
  readonly library: Library;
  readonly virsh: Virsh;
  readonly version: string;
  /** `+uid:+gid` of this process, where QEMU can be run as it: the machine's files are ours. */
  readonly runAs: string | undefined;
}

/** Opens libvirt. Throws `unavailable` LIBVIRT_LIBRARY_MISSING, PROGRAM_MISSING or LIBVIRT_UNREACHABLE. */
export async function openHost(
  { uri, load }: { readonly uri: string; readonly load?: () => Promise<unknown> },
  signal: AbortSignal,
): Promise<LibvirtHost> {
  const binding: Binding = await loadBinding(load);
  const virsh = createVirsh(uri);
  const version = /library: libvirt (\S+)/.exec(await virsh.run(["version"], { signal }))?.[1];
  if (version === undefined) {
    throw new Fault("unavailable", "libvirt does not tell its version", { reason: "LIBVIRT_FAILED" });
  }
  const runAs = deriveRunAs(await virsh.run(["capabilities"], { signal, timeoutMs: capabilitiesMs }));
  return { library: new Library({ binding, uri }), virsh, version, runAs };
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
