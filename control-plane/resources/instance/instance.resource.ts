import { z } from "zod";
import { Fault } from "#kernel/fault.ts";
import { instanceConstraints } from "./constraints.ts";
import { deriveSpec } from "./instance.derive.ts";
import { exampleInstance } from "./instance.example.ts";
import { machinePhase } from "../machine-phase.ts";
import { defineResource, defineVerb, type PhaseInput, type Resource } from "../definition.ts";

const MiB = 1024 ** 2;
const GiB = 1024 ** 3;

export const forwardSpec = z.strictObject({
  protocol: z.enum(["tcp", "udp"]).default("tcp"),
  guest_port: z.int().min(1).max(65535),
  host_port: z.int().min(0).max(65535).default(0).describe("port on the host; 0 lets the host choose"),
});

/** A machine that was on a host before, and what becomes of it there when the instance is deleted. */
export const adoptedSpec = z.strictObject({
  host_id: z.string(),
  uuid: z.string(),
  name: z.string().describe("as the host's hypervisor calls it"),
  on_delete: z
    .enum(["keep-disks", "delete-disks", "release"])
    .default("keep-disks")
    .describe("turn it off and leave it there with its disks, delete it, or hand it back as it is"),
});

export const instanceSpec = z.strictObject({
  image: z
    .string()
    .min(1)
    .max(255)
    .nullable()
    .describe("id, name or alias of an image; null only for a machine that was adopted"),
  flavor: z
    .string()
    .min(1)
    .max(255)
    .nullable()
    .default(null)
    .describe("a named size; null when it has one of its own"),
  key_pair: z
    .string()
    .min(1)
    .max(255)
    .nullable()
    .default(null)
    .describe("whose public key is let in, besides ssh_keys"),
  adopted: adoptedSpec.nullable().default(null).describe("given by adopting a machine of a host"),
  cpus: z.int().min(1).max(512).default(1),
  memory_bytes: z
    .int()
    .min(64 * MiB)
    .max(16 * 1024 * GiB)
    .multipleOf(MiB)
    .default(512 * MiB),
  disk_bytes: z
    .int()
    .min(64 * MiB)
    .max(64 * 1024 * GiB)
    .multipleOf(MiB)
    .default(4 * GiB),
  power: z.enum(["on", "off"]).default("on"),
  restarts: z.int().min(0).default(0).describe("counts the restarts asked for"),
  provider: z.string().min(1).max(63).nullable().default(null),
  region: z.string().min(1).max(63).nullable().default(null),
  constraints: instanceConstraints.prefault({}),
  network: z.string().min(1).max(255).default("default"),
  subnet: z.string().min(1).max(255).nullable().default(null).describe("kept for networks that have subnets"),
  security_groups: z
    .array(z.string().min(1).max(255))
    .max(64)
    .default([])
    .describe("kept for networks that filter; the default one does not"),
  description: z.string().max(1024).default(""),
  metadata: z
    .record(z.string().min(1).max(128), z.string().max(1024))
    .refine((metadata) => Object.keys(metadata).length <= 64, "must be at most 64")
    .default({})
    .describe("whatever its owner wants to keep with it"),
  monitoring: z.boolean().default(true).describe("false: its owner does not want to see its usage over time"),
  hostname: z
    .string()
    .regex(/^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$/, "must be a host name label")
    .nullable()
    .default(null),
  ssh_keys: z.array(z.string().min(1).max(16384)).max(64).default([]),
  user_data: z.string().max(65536).default(""),
  forwards: z.array(forwardSpec).max(64).default([]),
  restart_policy: z.enum(["always", "on-failure", "never"]).default("on-failure"),
  stop_timeout_seconds: z.int().min(0).max(600).default(30),
  on_host_loss: z
    .enum(["wait", "restart_elsewhere"])
    .default("wait")
    .describe(
      "when its host is lost: wait for it, and for its disk; or be made anew on another, with an empty disk. What may " +
        "restart elsewhere is stopped by its own host when that is cut off",
    ),
  relocation: z
    .enum(["advise", "automatic"])
    .optional()
    .describe(
      "where it would be much cheaper or nearer: advise only, the default; or move it there as it runs",
    ),
  on_host_loss_changes: z.int().min(0).default(0).describe("counts the changes of on_host_loss"),
});
export type InstanceSpec = z.infer<typeof instanceSpec>;
export type InstanceInput = z.input<typeof instanceSpec>;

export const machineStates = [
  "preparing",
  "starting",
  "running",
  "paused",
  "stopping",
  "stopped",
  "failed",
] as const;

export const instanceStatus = z.strictObject({
  host_id: z.string(),
  state: z.enum(machineStates),
  reason: z.string(),
  message: z.string(),
  cpus: z.int(),
  memory_bytes: z.int(),
  disk_bytes: z.int(),
  pending_restart: z.array(z.string()).describe("spec fields that take effect at the next restart"),
  guest_address: z.string(),
  forwards: z.array(
    z.strictObject({
      protocol: z.string(),
      guest_port: z.int(),
      host_port: z.int(),
      host_address: z.string(),
    }),
  ),
  started_at: z.string().nullable(),
  restarts: z.int(),
  crashes: z.int().describe("restarts that nobody asked for"),
  driver: z.string(),
  acceleration: z.string(),
  image_bytes_done: z.int(),
  image_bytes_total: z.int(),
  migration: z.string().nullable().describe("id of the migration under way"),
});
export type InstanceStatus = z.infer<typeof instanceStatus>;

export const instancePhases = [
  "pending",
  "building",
  "running",
  "stopping",
  "stopped",
  "migrating",
  "deleting",
  "deleted",
  "failed",
] as const;
export type InstancePhase = (typeof instancePhases)[number];
export type Instance = Resource<InstanceSpec, InstanceStatus, InstancePhase>;

const phase = (r: PhaseInput<InstanceSpec, InstanceStatus>): InstancePhase =>
  machinePhase(r, r.observed?.migration ? "migrating" : undefined);

const noInput = z.strictObject({});

/** Disks grow only: a smaller one would cut off the guest's file system. */
function refuseShrinking(next: InstanceSpec, previous: InstanceSpec | undefined): void {
  if (previous && next.disk_bytes < previous.disk_bytes) {
    throw new Fault("invalid", "a disk cannot shrink", {
      reason: "DISK_CANNOT_SHRINK",
      detail: { field: "spec.disk_bytes", minimum: previous.disk_bytes },
    });
  }
}

/** Either it is made from an image, or it was there before and stays what it is. */
function checkOrigin(
  { image, adopted, forwards, on_host_loss }: InstanceSpec,
  previous: InstanceSpec | undefined,
): void {
  const refuse = (field: string, problem: string) => {
    throw new Fault("invalid", `spec.${field}: ${problem}`, {
      reason: "VALIDATION_ERROR",
      detail: { field: `spec.${field}`, problem },
    });
  };
  if (!adopted && image === null) refuse("image", "is needed");
  if (adopted && image !== null) refuse("image", "is not for a machine that was adopted");
  if (adopted && on_host_loss !== "wait") refuse("on_host_loss", "is wait for a machine that was adopted");
  if (adopted && forwards.length > 0) refuse("forwards", "are not for a machine that was adopted");
  if (!previous) return;
  const [before, after] = [previous.adopted, adopted];
  const same =
    before?.uuid === after?.uuid && before?.host_id === after?.host_id && before?.name === after?.name;
  if (!same) refuse("adopted", "cannot be changed after creation, but for on_delete");
}

function validate(next: InstanceSpec, previous: InstanceSpec | undefined): void {
  refuseShrinking(next, previous);
  checkOrigin(next, previous);
}

export const instance = defineResource<InstanceSpec, InstanceStatus, InstancePhase>({
  kind: "instance",
  plural: "instances",
  idPrefixes: ["vm", "i", "res"],
  summary: "A virtual machine; it outlives the hosts it runs on",
  scope: "project",
  spec: instanceSpec,
  status: instanceStatus,
  withheld: ["adopted"],
  immutable: [
    "image",
    "key_pair",
    "provider",
    "region",
    "constraints",
    "network",
    "subnet",
    "security_groups",
    "hostname",
    "ssh_keys",
    "user_data",
  ],
  // A change would have to reach two hosts that are busy with each other; cancel the migration first.
  frozenIn: ["migrating"],
  phases: instancePhases,
  phase,
  next: {
    pending: ["building", "running", "stopping", "stopped", "deleting", "failed"],
    building: ["pending", "running", "stopping", "stopped", "deleting", "failed"],
    running: ["building", "stopping", "stopped", "migrating", "deleting", "failed"],
    stopping: ["building", "running", "stopped", "deleting", "failed"],
    stopped: ["building", "running", "stopping", "migrating", "deleting", "failed"],
    migrating: ["building", "running", "stopping", "stopped", "deleting", "failed"],
    deleting: ["deleted"],
    deleted: [],
    failed: ["pending", "building", "running", "stopping", "stopped", "deleting"],
  },
  settled: ["running", "stopped", "failed", "deleted"],
  verbs: {
    start: defineVerb({
      summary: "Turn it on; does nothing when it runs",
      when: ["pending", "building", "running", "stopping", "stopped", "failed"],
      input: noInput,
      apply: (r: Instance) => ({ ...r.desired, power: "on" as const }),
    }),
    stop: defineVerb({
      summary: "Ask the guest to shut down, then pull the plug after stop_timeout_seconds",
      when: ["pending", "building", "running", "stopping", "stopped", "failed"],
      input: noInput,
      apply: (r: Instance) => ({ ...r.desired, power: "off" as const }),
    }),
    restart: defineVerb({
      summary: "Shut down and start again; applies what is pending",
      when: ["building", "running", "failed"],
      input: noInput,
      apply: (r: Instance) => ({
        ...r.desired,
        power: "on" as const,
        restarts: r.desired.restarts + 1,
      }),
    }),
  },
  references: {
    image: { kind: "image", field: "image" },
    flavor: { kind: "flavor", field: "flavor", copied: true },
    key_pair: { kind: "key_pair", field: "key_pair", own: true, copied: true },
  },
  filters: {
    provider: { summary: "provider it was placed with", path: ["placement", "provider"] },
    region: { summary: "region it was placed in", path: ["placement", "region"] },
    zone: { summary: "availability zone it was placed in", path: ["placement", "zone"] },
    host: { summary: "host it was placed on", path: ["placement", "host_id"] },
    flavor: { summary: "name of its flavor", path: ["desired", "flavor"], loose: true },
    owner: { summary: "username of whoever made it", path: ["owner"] },
  },
  quota: { instances: 1, cpus: "cpus", memory_bytes: "memory_bytes", disk_bytes: "disk_bytes" },
  access: { read: "viewer", create: "operator", update: "operator", delete: "operator" },
  reconciled: true,
  uniqueNames: false,
  lingers: true,
  schemaVersion: 1,
  example: exampleInstance,
  derive: deriveSpec,
  validate,
  site: ({ provider, region }) => ({ provider, region }),
});
