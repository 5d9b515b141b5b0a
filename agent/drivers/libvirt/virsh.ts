/** virsh: everything that changes something, and what the binding cannot do. Each command has a limit and can be aborted. */
import { exec, execLines, stderrOf } from "#agent/exec.ts";
import { Fault, type FaultCode } from "#kernel/fault.ts";
import { hostFault } from "../hypervisor/host-fault.ts";

export interface VirshOptions {
  readonly signal: AbortSignal;
  readonly timeoutMs?: number;
}

export interface Virsh {
  /** Runs one command and gives what it printed. */
  run(args: readonly string[], options: VirshOptions): Promise<string>;
  /** What a command prints while it runs, line by line; it ends with the signal. */
  follow(args: readonly string[], signal: AbortSignal): AsyncIterable<string>;
}

const timeoutMs = 30_000;

/** virsh for one daemon. */
export function createVirsh(uri: string, program = "virsh"): Virsh {
  const always = ["--quiet", "--connect", uri];
  return {
    run: async (args, options) => {
      try {
        return (await exec(program, [...always, ...args], { timeoutMs, ...options })).stdout;
      } catch (error) {
        throw virshFault(error);
      }
    },
    follow: (args, signal) => execLines(program, [...always, ...args], { signal }),
  };
}

interface Meaning {
  readonly pattern: RegExp;
  readonly code: FaultCode;
  readonly reason: string;
  readonly message: string;
}

const meanings: readonly Meaning[] = [
  {
    pattern: /failed to connect to the hypervisor|Failed to connect socket/,
    code: "unavailable",
    reason: "LIBVIRT_UNREACHABLE",
    message: "libvirt does not answer on the host",
  },
  {
    pattern: /Domain not found|failed to get domain/,
    code: "notFound",
    reason: "DOMAIN_MISSING",
    message: "libvirt has no such machine any more",
  },
  {
    pattern: /domain is not running/,
    code: "conflict",
    reason: "DOMAIN_NOT_RUNNING",
    message: "the machine does not run",
  },
  {
    pattern: /already exists with uuid|already defined with uuid/,
    code: "conflict",
    reason: "DOMAIN_NAME_TAKEN",
    message: "libvirt has another machine of that name",
  },
  {
    pattern: /Permission denied/,
    code: "unavailable",
    reason: "LIBVIRT_NOT_PERMITTED",
    message: "libvirt may not open the machine's files, or the agent may not use libvirt",
  },
];

/** What virsh's complaint means for this host. */
export function virshFault(thrown: unknown): Fault {
  const text = stderrOf(thrown);
  const meaning = meanings.find(({ pattern }) => pattern.test(text));
  if (!meaning) return hostFault(thrown, "libvirt could not do it");
  const { code, reason, message } = meaning;
  return new Fault(code, message, { reason, cause: thrown });
}
