/**
 * Which hosts the local cloud has, and which images stand for which names: a YAML file, or the built-in
 * two sites, named as in the API references so that their examples run as written.
 */
import { readFile } from "node:fs/promises";
import { parse, YAMLParseError } from "yaml";
import { z } from "zod";
import { Fault, type Json } from "#kernel/fault.ts";

const name = z
  .string()
  .regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, "lower-case letters, digits and hyphens, at most 63");

const location = z.strictObject({
  latitude: z.number().min(-90).max(90),
  longitude: z.number().min(-180).max(180),
  city: z.string().max(255).default(""),
  country: z.string().max(255).default(""),
});

const prices = z.strictObject({
  cpu_per_hour: z.number().min(0),
  memory_per_gb: z.number().min(0),
  currency: z.string().length(3).default("USD"),
});

const host = z.strictObject({
  name,
  provider: z.string().min(1).max(63),
  region: z.string().min(1).max(63),
  zone: z.string().max(63).default(""),
  location: location.optional(),
  prices: prices.optional(),
  labels: z.record(z.string(), z.string()).default({}),
  driver: z.enum(["qemu", "fake"]).default("qemu"),
  share: z.number().gt(0).max(1).default(0.5),
});

const topology = z.strictObject({
  hosts: z
    .array(host)
    .min(1)
    .superRefine((hosts, context) => {
      hosts.forEach(({ name }, index) => {
        if (hosts.findIndex((other) => other.name === name) !== index) {
          context.addIssue({ code: "custom", path: [index, "name"], message: `"${name}" is used twice` });
        }
      });
    }),
  images: z.record(z.string().min(1), z.string().min(1)).default({}),
});

export type Topology = z.infer<typeof topology>;
export type TopologyHost = Topology["hosts"][number];

/** Two simulated sites on one machine. */
export const builtInTopology: Topology = topology.parse({
  hosts: [
    {
      name: "site-a",
      provider: "aws",
      region: "us-east-1",
      zone: "us-east-1a",
      location: { latitude: 39.04, longitude: -77.49, city: "Ashburn", country: "USA" },
      prices: { cpu_per_hour: 0.05, memory_per_gb: 0.01 },
    },
    {
      name: "site-b",
      provider: "azure",
      region: "eastus",
      zone: "eastus-1",
      location: { latitude: 36.67, longitude: -78.39, city: "Boydton", country: "USA" },
      prices: { cpu_per_hour: 0.045, memory_per_gb: 0.012 },
    },
  ],
});

/** What `npm run dev` works on: three regions far apart, no guests to wait for. */
export const developmentTopology: Topology = topology.parse({
  hosts: [
    {
      name: "site-a",
      provider: "aws",
      region: "us-east-1",
      zone: "us-east-1a",
      location: { latitude: 39.04, longitude: -77.49, city: "Ashburn", country: "USA" },
      prices: { cpu_per_hour: 0.05, memory_per_gb: 0.01 },
      driver: "fake",
    },
    {
      name: "site-b",
      provider: "azure",
      region: "westeurope",
      zone: "westeurope-1",
      location: { latitude: 52.37, longitude: 4.9, city: "Amsterdam", country: "Netherlands" },
      prices: { cpu_per_hour: 0.055, memory_per_gb: 0.011 },
      driver: "fake",
    },
    {
      name: "site-c",
      provider: "gcp",
      region: "asia-southeast1",
      zone: "asia-southeast1-a",
      location: { latitude: 1.35, longitude: 103.82, city: "Singapore", country: "Singapore" },
      prices: { cpu_per_hour: 0.06, memory_per_gb: 0.009 },
      driver: "fake",
    },
  ],
});

/** Throws `invalid` TOPOLOGY_INVALID that lists every mistake with its place in the file. */
export function parseTopology(yaml: string): Topology {
  let document: unknown;
  try {
    document = parse(yaml);
  } catch (error) {
    if (!(error instanceof YAMLParseError)) throw error;
    throw invalid([error.message.split("\n", 1)[0] ?? "not YAML"]);
  }
  const result = topology.safeParse(document);
  if (result.success) return result.data;
  throw invalid(
    result.error.issues.map(({ path, message }) => `${path.join(".") || "the file"}: ${message}`),
  );
}

/** Reads the file, or gives `fallback` when there is none. */
export async function loadTopology(file: string | undefined, fallback: Topology): Promise<Topology> {
  if (file === undefined) return fallback;
  const yaml = await readFile(file, "utf8").catch((cause: unknown) => {
    throw new Fault("invalid", `SKERRY_TOPOLOGY names ${file}, which cannot be read`, {
      reason: "TOPOLOGY_UNREADABLE",
      cause,
    });
  });
  return parseTopology(yaml);
}

/** The labels an agent tells about its host, as the JSON form of the protobuf message. */
export function toHostLabels({ provider, region, zone, location, prices, labels }: TopologyHost): Json {
  return {
    provider,
    region,
    zone,
    labels,
    ...(location ? { location } : {}),
    ...(prices
      ? {
          prices: {
            cpuPerHour: prices.cpu_per_hour,
            memoryPerGb: prices.memory_per_gb,
            currency: prices.currency,
          },
        }
      : {}),
  };
}

function invalid(mistakes: readonly string[]): Fault {
  return new Fault("invalid", `the topology is wrong:\n  ${mistakes.join("\n  ")}`, {
    reason: "TOPOLOGY_INVALID",
    detail: { mistakes },
  });
}
