/** The machines that a migration is measured with. */
import type { TestCloudOptions } from "#test/support/cloud.ts";
import { readyLine, tickLoop } from "#test/support/guests/console-lines.ts";
import { mixedMemoryBytes, mixedScript } from "#test/support/guests/mixed.ts";
import { ensureWarmGuest } from "#test/support/guests/warm.ts";
import type { BenchContext } from "./benchmark.ts";

export const guestNames = ["idle", "mixed", "warm"] as const;
export type GuestName = (typeof guestNames)[number];

export interface BenchGuest {
  readonly spec: {
    readonly image: string;
    readonly cpus: number;
    readonly memory_bytes: number;
    readonly disk_bytes: number;
    readonly user_data?: string;
  };
  /** Image names that lead to files of this computer. */
  readonly images: NonNullable<TestCloudOptions["images"]>;
  /** How long it may take to boot and to do what it does before it is measured. */
  readonly readyLimitMs: number;
}

const MiB = 2 ** 20;
const warmImage = "warm";

export async function prepareGuest(name: GuestName, bench: BenchContext, seed: number): Promise<BenchGuest> {
  const small = { image: "micro", cpus: 1, memory_bytes: 512 * MiB, disk_bytes: 64 * MiB };
  switch (name) {
    case "idle": {
      const user_data = `#!/bin/sh\necho ${readyLine}\n${tickLoop}\n`;
      return { spec: { ...small, user_data }, images: {}, readyLimitMs: 60_000 };
    }
    case "mixed": {
      const sizes = { memory_bytes: mixedMemoryBytes, disk_bytes: 128 * MiB };
      return {
        spec: { ...small, ...sizes, user_data: mixedScript(seed) },
        images: {},
        readyLimitMs: 180_000,
      };
    }
    case "warm": {
      const { image } = await ensureWarmGuest(bench.signal, (line) => bench.say(line));
      return {
        spec: { image: warmImage, cpus: 1, memory_bytes: 1024 * MiB, disk_bytes: 2048 * MiB },
        images: { [warmImage]: image },
        readyLimitMs: 600_000, // emulated, on a busy machine
      };
    }
  }
}
