import { z } from "zod";
import { defineResource, defineVerb, type PhaseInput, type Resource } from "../definition.ts";

export const hostLocation = z.strictObject({
  latitude: z.number().min(-90).max(90),
  longitude: z.number().min(-180).max(180),
  city: z.string().max(255),
  country: z.string().max(255),
});

export const hostPrices = z.strictObject({
  cpu_per_hour: z.number().min(0),
  memory_per_gb: z.number().min(0),
  currency: z.string().length(3),
});

export const hostCapacity = z.strictObject({
  cpus: z.int().min(0),
  memory_bytes: z.int().min(0),
  disk_bytes: z.int().min(0),
});

/** How many times its real capacity a host may promise. */
export const hostOvercommit = z.strictObject({
  cpus: z.number().min(1).max(100),
  memory: z.number().min(1).max(10),
  disk: z.number().min(1).max(100),
});

export const hostSpec = z.strictObject({
  provider: z.string().min(1).max(63),
  region: z.string().min(1).max(63),
  zone: z.string().max(63),
  location: hostLocation.nullable(),
  prices: hostPrices.nullable(),
  overcommit: hostOvercommit,
  cordoned: z.boolean().describe("takes no new instances"),
  draining: z.boolean().optional().describe("its machines are moved elsewhere; given by `drain`"),
  drain_cold: z
    .boolean()
    .optional()
    .describe("machines that cannot be moved elsewhere as they run are stopped for it; given by `drain`"),
  taints: z
    .array(z.string().min(1).max(63))
    .max(32)
    .optional()
    .describe("each keeps away the instances that do not tolerate it"),
  gpus: z
    .strictObject({ model: z.string().min(1).max(63), count: z.int().min(1).max(64) })
    .nullable()
    .optional()
    .describe("what it may give to virtual machines, where its driver can; containers: see status"),
});
export type HostSpec = z.infer<typeof hostSpec>;

/** A machine that the host's hypervisor has and that is not of this cloud's making. */
export const foreignMachine = z.strictObject({
  uuid: z.string(),
  name: z.string(),
  state: z.string(),
  cpus: z.int(),
  memory_bytes: z.int(),
  disks: z.array(z.strictObject({ target: z.string(), size_bytes: z.int(), format: z.string() })),
  obstacles: z
    .array(z.strictObject({ code: z.string(), message: z.string() }))
    .describe("each reason why it cannot be adopted"),
});
export type ForeignMachine = z.infer<typeof foreignMachine>;

/** What others have seen of a host that is not heard of: each proves another thing (engine/loss.ts). */
export const sightings = ["none", "silent", "refused", "unanswered", "answered", "fenced"] as const;
export type Sighting = (typeof sightings)[number];

export const hostStatus = z.strictObject({
  connected: z.boolean(),
  silence: z
    .strictObject({
      since: z.string(),
      sighting: z.enum(sightings).describe("what another host saw when it was asked to look"),
      lost: z.boolean().describe("its machines that may are started elsewhere"),
      message: z.string(),
    })
    .optional()
    .describe("while it is not heard of"),
  hostname: z.string(),
  architecture: z.string(),
  operating_system: z.string(),
  kernel: z.string(),
  agent_version: z.string(),
  cpu_model: z.string(),
  cpu_baseline: z.string(),
  capacity: hostCapacity.describe("what the host has; overcommit is applied on top"),
  driver: z.string(),
  driver_version: z.string(),
  acceleration: z.string(),
  acceleration_reason: z.string(),
  capabilities: z.array(z.string()),
  listen_address: z.string(),
  boot_id: z.string(),
  machine_types: z
    .array(z.string())
    .describe("versioned machine types that guests can have here, newest first"),
  guest_cpu_model: z.string(),
  containers: z
    .strictObject({
      engine: z.string(),
      version: z.string(),
      reason: z.string(),
      gpus: z
        .array(z.strictObject({ device: z.string(), vendor: z.string(), model: z.string() }))
        .optional()
        .describe("what containers may be given of its GPUs, each for itself"),
      gpu_problems: z
        .array(z.string())
        .optional()
        .describe("what is wrong with the files that describe them"),
    })
    .optional()
    .describe("what runs containers here; with an empty engine, why there are none"),
  doubts: z.array(z.string()).optional().describe("what it says of itself and cannot be true"),
  unknown_machines: z
    .array(z.string())
    .describe("machines that it says it has and was never given; they are left alone"),
  foreign_machines: z
    .array(foreignMachine)
    .optional()
    .describe("what else its hypervisor runs, where the driver can tell; see `adopt`"),
});
export type HostStatus = z.infer<typeof hostStatus>;

export const hostPhases = ["joining", "online", "offline", "lost", "deleting"] as const;
export type HostPhase = (typeof hostPhases)[number];
export type Host = Resource<HostSpec, HostStatus, HostPhase>;

function phase(r: PhaseInput<HostSpec, HostStatus>): HostPhase {
  if (r.deletingAt) return "deleting";
  if (!r.observed) return "joining";
  if (r.observed.silence?.lost) return "lost";
  return r.observed.connected && !r.observed.silence ? "online" : "offline";
}

const noInput = z.strictObject({});

export const host = defineResource<HostSpec, HostStatus, HostPhase>({
  kind: "host",
  plural: "hosts",
  idPrefixes: ["host"],
  summary: "A machine with an agent",
  scope: "cloud",
  spec: hostSpec,
  status: hostStatus,
  immutable: [],
  phases: hostPhases,
  phase,
  next: {
    joining: ["online", "offline", "lost", "deleting"],
    online: ["offline", "lost", "deleting"],
    offline: ["online", "lost", "deleting"],
    lost: ["online", "offline", "deleting"],
    deleting: [],
  },
  settled: ["online", "offline", "lost"],
  verbs: {
    cordon: defineVerb({
      summary: "Take no new instances",
      when: ["joining", "online", "offline", "lost"],
      input: noInput,
      apply: (r: Host) => ({ ...r.desired, cordoned: true }),
    }),
    uncordon: defineVerb({
      summary: "Take new instances again",
      when: ["joining", "online", "offline", "lost"],
      input: noInput,
      apply: (r: Host) => ({ ...r.desired, cordoned: false, draining: false, drain_cold: false }),
    }),
    drain: defineVerb({
      summary: "Take no new instances and move those that are there elsewhere, running ones as they run",
      when: ["joining", "online", "offline", "lost"],
      input: z.strictObject({
        cold: z
          .boolean()
          .default(false)
          .describe("what cannot move as it runs is stopped, moved and started there"),
      }),
      apply: (r: Host, { cold }) => ({ ...r.desired, cordoned: true, draining: true, drain_cold: cold }),
    }),
  },
  references: {},
  filters: {
    provider: { summary: "provider", path: ["desired", "provider"] },
    region: { summary: "region", path: ["desired", "region"] },
  },
  access: { read: "viewer", update: "cloud-admin", delete: "cloud-admin" },
  reconciled: true,
  uniqueNames: true,
  schemaVersion: 1,
});
