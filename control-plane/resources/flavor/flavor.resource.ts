import { z } from "zod";
import { defineResource, type PhaseInput, type Resource } from "../definition.ts";

const MiB = 1024 ** 2;
const GiB = 1024 ** 3;

export const flavorSpec = z.strictObject({
  vcpus: z.int().min(1).max(512),
  memory_bytes: z
    .int()
    .min(64 * MiB)
    .max(16 * 1024 * GiB)
    .multipleOf(MiB),
  disk_bytes: z
    .int()
    .min(64 * MiB)
    .max(64 * 1024 * GiB)
    .multipleOf(MiB),
  gpu_count: z.int().min(0).max(64).default(0),
  network_bandwidth_gbps: z.number().min(0).max(10_000).default(1),
  hourly_cost_usd: z
    .string()
    .regex(/^\d{1,9}(\.\d{1,6})?$/, "must be a decimal number such as 0.0104")
    .default("0"),
  active: z.boolean().default(true).describe("false: instances that have it keep it, new ones do not get it"),
  aliases: z.array(z.string().min(1).max(255)).max(64).default([]),
});
export type FlavorSpec = z.infer<typeof flavorSpec>;

export const flavorPhases = ["available", "retired", "deleting"] as const;
export type FlavorPhase = (typeof flavorPhases)[number];
export type Flavor = Resource<FlavorSpec, null, FlavorPhase>;

function phase({ deletingAt, desired }: PhaseInput<FlavorSpec, null>): FlavorPhase {
  if (deletingAt) return "deleting";
  return desired.active ? "available" : "retired";
}

export const flavor = defineResource<FlavorSpec, null, FlavorPhase>({
  kind: "flavor",
  plural: "flavors",
  idPrefixes: ["flv"],
  summary: "A size of instances that has a name and a price",
  scope: "shared",
  spec: flavorSpec,
  status: z.null(),
  immutable: ["vcpus", "memory_bytes", "disk_bytes", "gpu_count"],
  phases: flavorPhases,
  phase,
  next: { available: ["retired", "deleting"], retired: ["available", "deleting"], deleting: [] },
  settled: ["available", "retired"],
  verbs: {},
  references: {},
  filters: {},
  access: { read: "viewer", create: "admin", update: "admin", delete: "admin" },
  reconciled: false,
  uniqueNames: true,
  schemaVersion: 1,
  example: {
    name: "m1.large",
    spec: { vcpus: 4, memory_bytes: 8 * 1024 ** 3, disk_bytes: 80 * 1024 ** 3, hourly_cost_usd: "0.0832" },
    status: null,
  },
});
