import { z } from "zod";
import { defineResource, defineVerb, type PhaseInput, type Resource } from "../definition.ts";
import type { ImageSpec } from "../image/image.resource.ts";
import { machineStates } from "../instance/instance.resource.ts";
import { machinePhase } from "../machine-phase.ts";
import { exampleWorkload } from "./workload.example.ts";

const MiB = 1024 ** 2;
const GiB = 1024 ** 3;

export const workloadPort = z.strictObject({
  protocol: z.enum(["tcp", "udp"]).default("tcp"),
  container_port: z.int().min(1).max(65535),
  host_port: z.int().min(0).max(65535).default(0).describe("port on the host; 0 lets the host choose"),
  host_address: z
    .union([z.ipv4(), z.ipv6()])
    .default("127.0.0.1")
    .describe("address of the host to listen on; 0.0.0.0 is all of them"),
});

export const workloadHealth = z.strictObject({
  command: z
    .array(z.string().min(1).max(1024))
    .min(1)
    .max(64)
    .describe("run inside it; exit code 0 is healthy"),
  interval_seconds: z.int().min(1).max(3600).default(30),
  timeout_seconds: z.int().min(1).max(600).default(10),
  retries: z.int().min(1).max(100).default(3).describe("after so many failures in a row it is ended"),
  start_period_seconds: z
    .int()
    .min(0)
    .max(3600)
    .default(0)
    .describe("failures so soon after the start do not count"),
});

export const targetLocation = z.strictObject({
  latitude: z.number().min(-90).max(90),
  longitude: z.number().min(-180).max(180),
});

const restartPolicies = ["always", "on-failure", "never"] as const;

export const workloadSpec = z.strictObject({
  image: z
    .string()
    .min(1)
    .max(255)
    .regex(/^[\w][\w.\-/:@+ ]*$/, "must be an image's name, or a reference to one in a registry")
    .describe(
      "id, name or alias of an image of the type container, or a reference such as docker.io/library/nginx:1",
    ),
  type: z
    .string()
    .regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, "must be lower-case letters, digits and dashes")
    .default("service")
    .describe("what it is for; a `job` or `batch` is not started again once it has done its work"),
  cpus: z.int().min(1).max(512).default(1),
  memory_bytes: z
    .int()
    .min(8 * MiB)
    .max(16 * 1024 * GiB)
    .default(256 * MiB),
  disk_bytes: z
    .int()
    .min(0)
    .max(64 * 1024 * GiB)
    .default(GiB)
    .describe("counted against the host's disk; not a limit"),
  gpus: z.int().min(0).max(64).default(0).describe("of the host's, for it alone"),
  command: z
    .array(z.string().max(4096))
    .max(256)
    .default([])
    .describe("the program and its arguments; empty: what the image says"),
  environment: z
    .record(
      z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/, "must be a variable's name"),
      z.string().max(16384),
    )
    .refine((environment) => Object.keys(environment).length <= 256, "must be at most 256")
    .default({}),
  ports: z.array(workloadPort).max(64).default([]),
  health: workloadHealth.nullable().default(null),
  restart_policy: z
    .enum(restartPolicies)
    .nullable()
    .default(null)
    .describe("null: as its type needs, on-failure for a job or batch, else always"),
  power: z.enum(["on", "off"]).default("on"),
  restarts: z.int().min(0).default(0).describe("counts the restarts asked for"),
  stop_timeout_seconds: z.int().min(0).max(600).default(10),
  provider: z.string().min(1).max(63).nullable().default(null),
  region: z.string().min(1).max(63).nullable().default(null),
  target_location: targetLocation.nullable().default(null).describe("the nearest host with room is chosen"),
  on_disconnect: z
    .enum(["keep", "replace"])
    .default("keep")
    .describe(
      "when its host is cut off it runs on there; `replace` starts it elsewhere as well, and the old one is removed when the host is back",
    ),
  replace_after_seconds: z
    .int()
    .min(1)
    .max(7 * 86400)
    .default(300),
});
export type WorkloadSpec = z.infer<typeof workloadSpec>;
export type WorkloadInput = z.input<typeof workloadSpec>;

export const workloadStatus = z.strictObject({
  host_id: z.string(),
  state: z.enum(machineStates),
  reason: z.string(),
  message: z.string(),
  health: z
    .enum(["starting", "healthy", "unhealthy"])
    .nullable()
    .describe("null: nothing checks it, or it does not run"),
  exit_code: z.int().nullable().describe("how it ended; null while it runs"),
  ports: z.array(
    z.strictObject({
      protocol: z.string(),
      container_port: z.int(),
      host_port: z.int(),
      host_address: z.string(),
    }),
  ),
  started_at: z.string().nullable(),
  restarts: z.int(),
  crashes: z.int().describe("restarts that nobody asked for"),
  gpus: z.array(z.string()).optional().describe("those that it has for itself, by their names on its host"),
  engine: z.string().describe("what runs it, such as podman"),
});
export type WorkloadStatus = z.infer<typeof workloadStatus>;

export const workloadPhases = [
  "pending",
  "building",
  "running",
  "stopping",
  "stopped",
  "deleting",
  "deleted",
  "failed",
] as const;
export type WorkloadPhase = (typeof workloadPhases)[number];
export type Workload = Resource<WorkloadSpec, WorkloadStatus, WorkloadPhase>;

const noInput = z.strictObject({});
const lives = ["pending", "building", "running", "stopping", "stopped", "failed"] as const;

export const workload = defineResource<WorkloadSpec, WorkloadStatus, WorkloadPhase>({
  kind: "workload",
  plural: "workloads",
  idPrefixes: ["wl"],
  summary: "A container on a host that is near to where it is needed",
  scope: "project",
  spec: workloadSpec,
  status: workloadStatus,
  immutable: ["image", "provider", "region", "target_location", "gpus"],
  phases: workloadPhases,
  phase: (r: PhaseInput<WorkloadSpec, WorkloadStatus>): WorkloadPhase => machinePhase(r),
  next: {
    pending: ["building", "running", "stopping", "stopped", "deleting", "failed"],
    building: ["pending", "running", "stopping", "stopped", "deleting", "failed"],
    running: ["building", "stopping", "stopped", "deleting", "failed"],
    stopping: ["building", "running", "stopped", "deleting", "failed"],
    stopped: ["building", "running", "stopping", "deleting", "failed"],
    deleting: ["deleted"],
    deleted: [],
    failed: ["pending", "building", "running", "stopping", "stopped", "deleting"],
  },
  settled: ["running", "stopped", "failed", "deleted"],
  verbs: {
    start: defineVerb({
      summary: "Start it; does nothing when it runs",
      when: lives,
      input: noInput,
      apply: (r: Workload) => ({ ...r.desired, power: "on" as const }),
    }),
    stop: defineVerb({
      summary: "Ask it to end, and end it after stop_timeout_seconds",
      when: lives,
      input: noInput,
      apply: (r: Workload) => ({ ...r.desired, power: "off" as const }),
    }),
    restart: defineVerb({
      summary: "End it and start it again",
      when: lives,
      input: noInput,
      apply: (r: Workload) => ({ ...r.desired, power: "on" as const, restarts: r.desired.restarts + 1 }),
    }),
  },
  references: {
    image: {
      kind: "image",
      field: "image",
      takes: ({ desired }) => (desired as ImageSpec).type === "container",
    },
  },
  filters: {
    provider: { summary: "provider it was placed with", path: ["placement", "provider"] },
    region: { summary: "region it was placed in", path: ["placement", "region"] },
    host: { summary: "host it was placed on", path: ["placement", "host_id"] },
    type: { summary: "its type", path: ["desired", "type"] },
    owner: { summary: "username of whoever made it", path: ["owner"] },
  },
  quota: { workloads: 1, cpus: "cpus", memory_bytes: "memory_bytes", disk_bytes: "disk_bytes" },
  access: { read: "viewer", create: "operator", update: "operator", delete: "operator" },
  reconciled: true,
  uniqueNames: false,
  schemaVersion: 1,
  example: exampleWorkload,
  site: ({ provider, region }) => ({ provider, region }),
});

/** What follows when it ends by itself. */
export function restartPolicyOf({
  restart_policy,
  type,
}: Pick<WorkloadSpec, "restart_policy" | "type">): (typeof restartPolicies)[number] {
  return restart_policy ?? (type === "job" || type === "batch" ? "on-failure" : "always");
}
