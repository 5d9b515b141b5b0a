/**
 * Copying a machine's disk, one copy at a time. Whatever else is to be done to the machine comes first: it ends the
 * copy and waits until it has let go of the disk; whoever wanted the copy asks again.
 */
import { Fault } from "#kernel/fault.ts";
import type { DiskCopies, MachineDriver, MachinePlan } from "../drivers/driver.ts";

/** How long a copy waits for what is being done to the machine. */
export const copyWaitMs = 30_000;

export class Capture {
  #running: { readonly stop: AbortController; readonly ended: Promise<void> } | undefined;

  /** Runs the copy; throws `unavailable` CAPTURE_INTERRUPTED when it had to give way. */
  async run(copy: (signal: AbortSignal) => Promise<void>, signal: AbortSignal): Promise<void> {
    if (this.#running) {
      throw new Fault("unavailable", "the machine's disk is being copied already", {
        reason: "CAPTURE_UNDER_WAY",
      });
    }
    const stop = new AbortController();
    const copying = copy(AbortSignal.any([signal, stop.signal])).finally(() => (this.#running = undefined));
    this.#running = {
      stop,
      ended: copying.catch(() => undefined), // its caller's
    };
    await copying;
  }

  /** Resolves when no copy holds the disk. */
  async giveWay(): Promise<void> {
    this.#running?.stop.abort(interrupted());
    await this.#running?.ended;
  }
}

/** Something else is done to the machine, which a copy of its disk waits for. */
export function interrupted(): Fault {
  return new Fault("unavailable", "something else is to be done to the machine", {
    reason: "CAPTURE_INTERRUPTED",
  });
}

/** How the driver copies this machine's disk; throws `conflict` when that would give no image. */
export function diskCopiesOf(
  { diskCopies }: Pick<MachineDriver, "diskCopies">,
  { image }: Pick<MachinePlan, "image">,
): DiskCopies {
  if (diskCopies && (image.type === "disk" || image.type === "kernel")) return diskCopies;
  throw new Fault("conflict", "the host cannot copy the disk of this machine", {
    reason: "CAPTURE_UNSUPPORTED",
  });
}
