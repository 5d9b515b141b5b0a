/** NovaCron's edge: hosts as "nodes", workloads by distance. */
import { z } from "zod";
import type { EdgeNode, EdgeNodes } from "../../app/edge-nodes.ts";
import type { ResourceApi } from "../../app/resource-api.ts";
import { nameSchema } from "../../http/native-json.ts";
import { defineRoute, type Route } from "../../http/route.ts";
import {
  targetLocation,
  workload,
  workloadSpec,
  type Workload,
  type WorkloadPhase,
} from "../../resources/workload/workload.resource.ts";
import { defineKind } from "../define-kind.ts";
import { phasesOf, withPrefix } from "../dialect.ts";
import { kindRoutes } from "../kind-routes.ts";
import { novacron } from "./dialect.ts";

export interface EdgeRoutesOptions {
  readonly resources: ResourceApi;
  readonly edge: Pick<EdgeNodes, "list">;
}

const GiB = 1024 ** 3;
const node = z.object({
  id: z.string(),
  name: z.string(),
  location: z
    .object({ latitude: z.number(), longitude: z.number(), city: z.string(), country: z.string() })
    .nullable()
    .describe("null when its owner has not said where it is"),
  status: z.enum(["online", "offline"]),
  resources: z.object({
    cpu: z.int(),
    memory: z.int().describe("bytes"),
    disk: z.int().describe("bytes"),
    gpu: z.int(),
  }),
  workloads: z.int(),
  last_heartbeat: z.iso.datetime().nullable(),
});

const exampleNode: z.infer<typeof node> = {
  id: "host-1m7zk3q9x4v8c2b6n5d0",
  name: "edge-us-east-1",
  location: { latitude: 40.7128, longitude: -74.006, city: "New York", country: "USA" },
  status: "online",
  resources: { cpu: 16, memory: 32 * GiB, disk: 1024 * GiB, gpu: 1 },
  workloads: 5,
  last_heartbeat: "2026-01-15T10:31:50Z",
};

const phases = {
  pending: "pending",
  building: "deploying",
  running: "running",
  stopping: "stopping",
  stopped: "stopped",
  deleting: "deleting",
  deleted: "deleting",
  failed: "failed",
} as const satisfies Record<WorkloadPhase, string>;
const statuses = ["pending", "deploying", "running", "stopping", "stopped", "deleting", "failed"] as const;

const wire = z.object({
  id: z.string(),
  name: z.string(),
  type: z.string(),
  image: z.string(),
  status: z.enum(statuses),
  health: z.string().nullable(),
  resources: z.object({ cpu: z.int(), memory: z.int().describe("bytes"), gpu: z.int() }),
  target_location: targetLocation.nullable(),
  node_id: z.string().nullable(),
  created_at: z.iso.datetime(),
  updated_at: z.iso.datetime(),
  error: z.object({ code: z.string(), message: z.string() }).nullable(),
});

const { image, type, cpus, memory_bytes: memory, gpus } = workloadSpec.shape;
const createWorkload = z.strictObject({
  name: nameSchema,
  type: type.unwrap().optional(),
  image,
  resources: z
    .strictObject({
      cpu: cpus.unwrap().optional(),
      memory: memory.unwrap().optional(),
      gpu: gpus.unwrap().optional(),
    })
    .optional(),
  target_location: targetLocation.optional(),
});

const workloadKind = defineKind({
  definition: workload,
  path: "/edge/workloads",
  idName: "workload_id",
  noun: "workload",
  type: "Workload",
  types: "Workloads",
  idPrefix: "wl",
  phases,
  fields: { cpus: "resources.cpu", memory_bytes: "resources.memory", gpus: "resources.gpu" },
  wire,
  encode: encodeWorkload,
  pageSize: 50,
  filters: z.object({ status: z.enum(statuses).optional() }),
  toQuery: ({ status }) => ({ ...(status && { phases: phasesOf(phases, status) }) }),
  create: {
    body: createWorkload,
    toInput: ({ name, image: wanted, type: purpose, resources = {}, target_location }) => ({
      name,
      spec: {
        image: wanted,
        ...(purpose !== undefined && { type: purpose }),
        ...(resources.cpu !== undefined && { cpus: resources.cpu }),
        ...(resources.memory !== undefined && { memory_bytes: resources.memory }),
        ...(resources.gpu !== undefined && { gpus: resources.gpu }),
        ...(target_location && { target_location }),
      },
    }),
  },
  examples: {
    create: {
      name: "ai-inference",
      type: "ai-inference",
      image: "registry.example.com/ai-model:latest",
      resources: { cpu: 2, memory: 4 * GiB },
      target_location: { latitude: 40.7128, longitude: -74.006 },
    },
  },
  deletes: true,
  actions: { restart: { verb: "restart" } },
});

/** The nodes, and the workloads as any other kind. */
export function edgeRoutes({ resources, edge }: EdgeRoutesOptions): Route[] {
  return [
    defineRoute({
      method: "GET",
      path: "/v1/edge/nodes",
      operationId: "listEdgeNodes",
      summary: "Hosts with where they are, what they have and how much runs there",
      tag: "edge",
      role: "viewer",
      answers: { 200: { description: "all", schema: z.object({ nodes: z.array(node) }) } },
      examples: { answers: { 200: { nodes: [exampleNode] } } },
      async handle() {
        return { status: 200, headers: {}, body: { nodes: (await edge.list()).map(toNode) } };
      },
    }),
    ...kindRoutes(novacron, workloadKind, resources),
  ];
}

function toNode({ id, name, location, online, capacity, gpus: gpu, workloads, lastHeartbeat }: EdgeNode) {
  return {
    ...{ id, name, location, workloads },
    status: online ? ("online" as const) : ("offline" as const),
    resources: {
      cpu: capacity.cpus,
      memory: capacity.memory_bytes,
      disk: capacity.disk_bytes,
      gpu,
    },
    last_heartbeat: lastHeartbeat?.toISOString() ?? null,
  };
}

function encodeWorkload(r: Workload): z.infer<typeof wire> {
  const { desired, observed, problem } = r;
  const told = observed && observed.reason !== "" ? observed : undefined;
  const error = problem ?? told;
  return {
    id: withPrefix(r.id, "wl"),
    name: r.name,
    type: desired.type,
    image: desired.image,
    status: phases[r.phase],
    health: observed?.health ?? null,
    resources: { cpu: desired.cpus, memory: desired.memory_bytes, gpu: desired.gpus },
    target_location: desired.target_location,
    node_id: r.hostId ?? null,
    created_at: r.createdAt.toISOString(),
    updated_at: r.updatedAt.toISOString(),
    error: error ? { code: error.reason, message: error.message } : null,
  };
}
