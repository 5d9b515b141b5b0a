/** Says what it means for the host when QEMU, its tools or the file system complain. */
import { stderrOf } from "#agent/exec.ts";
import { Fault, isFault, type FaultCode } from "#kernel/fault.ts";

interface Meaning {
  readonly pattern: RegExp;
  readonly code: FaultCode;
  readonly reason: string;
  readonly message: string;
  readonly retryable?: boolean;
}

// The tools have no error codes, only texts, which are the same in every language setting we run them with.
const meanings: readonly Meaning[] = [
  {
    pattern: /No space left on device|Disk quota exceeded|ENOSPC|EDQUOT/,
    code: "exhausted",
    reason: "HOST_DISK_FULL",
    message: "the host's disk is full",
  },
  {
    pattern: /Cannot allocate memory|cannot set up guest memory/,
    code: "exhausted",
    reason: "HOST_MEMORY_FULL",
    message: "the host has not enough memory left",
  },
  {
    pattern: /Failed to get .* lock|Cannot lock pid file/,
    code: "unavailable",
    reason: "MACHINE_STILL_RUNS",
    message: "another process still holds the machine's disk",
  },
  {
    pattern: /Could not access KVM|failed to initialize kvm/,
    code: "unavailable",
    reason: "KVM_UNAVAILABLE",
    message: "hardware acceleration is not available any more",
    retryable: false,
  },
  {
    pattern:
      /[Cc]orrupt|not in qcow2 format|Could not open backing file|Unsupported qcow2|Invalid argument.*qcow2/,
    code: "invalid",
    reason: "IMAGE_CORRUPT",
    message: "the image or the disk made from it is damaged",
  },
];

/** The fault that a failure on this host means; `otherwise` is the message for one that is not known. */
export function hostFault(thrown: unknown, otherwise: string): Fault {
  const code = (thrown as NodeJS.ErrnoException | undefined)?.code ?? "";
  const text = `${stderrOf(thrown)} ${String(code)}`;
  const meaning = meanings.find(({ pattern }) => pattern.test(text));
  if (meaning) {
    const { code, reason, message, retryable } = meaning;
    return new Fault(code, message, {
      reason,
      cause: thrown,
      ...(retryable === undefined ? {} : { retryable }),
    });
  }
  // Timeouts, cancellations and missing programs already say what is wrong.
  if (isFault(thrown) && thrown.reason !== "PROGRAM_FAILED") return thrown;
  return new Fault("internal", otherwise, { reason: "HOST_TOOL_FAILED", cause: thrown });
}
