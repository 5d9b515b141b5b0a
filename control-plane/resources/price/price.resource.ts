import { z } from "zod";
import { defineResource, type PhaseInput, type Resource } from "../definition.ts";

const amount = z.number().min(0).max(1_000_000);

export const priceSpec = z.strictObject({
  provider: z.string().min(1).max(63),
  region: z.string().min(1).max(63).nullable().default(null).describe("null: wherever no region has its own"),
  cpu_per_hour: amount,
  memory_per_gb: amount.describe("a GiB of memory per hour"),
  disk_gib_per_month: amount.default(0),
  egress_per_gib: amount.default(0).describe("traffic out"),
  currency: z.string().length(3).describe("ISO 4217"),
});
export type PriceSpec = z.infer<typeof priceSpec>;

const phases = ["listed", "deleting"] as const;
type PricePhase = (typeof phases)[number];
type NoStatus = Record<string, never>;
export type Price = Resource<PriceSpec, NoStatus, PricePhase>;

/** A line of the price sheet. A host's own prices come before it. */
export const price = defineResource<PriceSpec, NoStatus, PricePhase>({
  kind: "price",
  plural: "prices",
  idPrefixes: ["price"],
  summary: "What a provider takes, in a region or wherever no region has a price of its own",
  scope: "cloud",
  spec: priceSpec,
  status: z.strictObject({}),
  immutable: [],
  phases,
  phase: ({ deletingAt }: PhaseInput<PriceSpec, NoStatus>) => (deletingAt ? "deleting" : "listed"),
  next: { listed: ["deleting"], deleting: [] },
  settled: ["listed"],
  verbs: {},
  references: {},
  filters: {
    provider: { summary: "provider", path: ["desired", "provider"] },
    region: { summary: "region", path: ["desired", "region"] },
  },
  access: { read: "viewer", create: "admin", update: "admin", delete: "admin" },
  reconciled: false,
  uniqueNames: false,
  schemaVersion: 1,
});
