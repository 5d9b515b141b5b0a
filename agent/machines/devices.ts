/** Which of the host's devices a container gets. Each is given to one at a time; once given, it is kept. */
import { Fault } from "#kernel/fault.ts";

export const gpuUnavailable = "GPU_UNAVAILABLE";

/** What there is to give. */
export interface DeviceSource {
  /** The devices as they are now, by the names that the container engine knows. */
  read(signal: AbortSignal): Promise<readonly string[]>;
}

export interface DeviceWish {
  readonly count: number;
  /** What it was given before. */
  readonly kept: readonly string[];
  readonly present: readonly string[];
  /** What others have been given. */
  readonly taken: ReadonlySet<string>;
}

/** What it is to have from now on: what it had, as far as that is there, and free ones. Throws GPU_UNAVAILABLE. */
export function chooseDevices({ count, kept, present, taken }: DeviceWish): readonly string[] {
  const own = kept.filter((device) => present.includes(device) && !taken.has(device));
  const free = present.filter((device) => !taken.has(device) && !own.includes(device));
  const chosen = [...own, ...free].slice(0, count);
  if (chosen.length === count) return chosen;
  const gone = kept.filter((device) => !present.includes(device));
  const lack =
    gone.length > 0
      ? `the host no longer has ${gone.join(" and ")}, and too few others are free`
      : `of the host's ${String(present.length)} GPUs ${String(chosen.length)} are free, and it needs ${String(count)}`;
  throw new Fault("unavailable", lack, { reason: gpuUnavailable, detail: { gone } });
}
