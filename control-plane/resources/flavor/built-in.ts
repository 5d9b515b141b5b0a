/** The flavors that every cloud has from the start, under the names that clients of other clouds ask for. */
import type { FlavorSpec } from "./flavor.resource.ts";

export interface FlavorSeed {
  readonly name: string;
  readonly spec: FlavorSpec;
}

const MiB = 1024 ** 2;
const GiB = 1024 ** 3;

type Row = readonly [
  name: string,
  vcpus: number,
  memoryMiB: number,
  diskGiB: number,
  gbps: number,
  usd: string,
];

const general: readonly Row[] = [
  ["m1.tiny", 1, 512, 4, 0.5, "0.0052"],
  ["m1.small", 1, 2048, 20, 1, "0.0208"],
  ["m1.medium", 2, 4096, 40, 1, "0.0416"],
  ["m1.large", 4, 8192, 80, 2.5, "0.0832"],
  ["m1.xlarge", 8, 16384, 160, 5, "0.1664"],
  ["m1.2xlarge", 16, 32768, 320, 10, "0.3328"],
  ["t3.micro", 1, 1024, 8, 0.5, "0.0104"],
  ["t3.small", 1, 2048, 20, 0.5, "0.0208"],
  ["t3.medium", 2, 4096, 40, 1, "0.0416"],
  ["t3.large", 2, 8192, 80, 2.5, "0.0832"],
  ["t3.xlarge", 4, 16384, 160, 5, "0.1664"],
];

const gpu: readonly Row[] = [
  ["g1.large", 4, 16384, 120, 5, "0.5260"],
  ["g1.xlarge", 8, 32768, 240, 10, "0.7520"],
];

const toSeed =
  (gpuCount: number) =>
  ([name, vcpus, memoryMiB, diskGiB, gbps, usd]: Row): FlavorSeed => ({
    name,
    spec: {
      vcpus,
      memory_bytes: memoryMiB * MiB,
      disk_bytes: diskGiB * GiB,
      gpu_count: gpuCount,
      network_bandwidth_gbps: gbps,
      hourly_cost_usd: usd,
      active: true,
      aliases: [],
    },
  });

export const builtInFlavors: readonly FlavorSeed[] = [...general.map(toSeed(0)), ...gpu.map(toSeed(1))];
