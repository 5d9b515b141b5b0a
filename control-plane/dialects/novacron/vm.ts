/** An instance as NovaCron's "VM": sizes in bytes, labels called tags, `building` told as `pending`. */
import { z } from "zod";
import { nameSchema, labelsPatchSchema, labelsSchema } from "../../http/native-json.ts";
import {
  instance,
  instanceSpec,
  type Instance,
  type InstancePhase,
  type InstanceStatus,
} from "../../resources/instance/instance.resource.ts";
import { defineKind } from "../define-kind.ts";
import { phasesOf, withPrefix } from "../dialect.ts";
import { knownNetwork } from "../networks.ts";
import { renamer } from "../words.ts";

const GiB = 1024 ** 3;

export const vmPhases = {
  pending: "pending",
  building: "pending",
  running: "running",
  stopping: "stopping",
  stopped: "stopped",
  migrating: "migrating",
  deleting: "deleting",
  deleted: "deleting",
  failed: "failed",
} as const satisfies Record<InstancePhase, string>;

export const vmStatuses = [
  "pending",
  "running",
  "stopping",
  "stopped",
  "migrating",
  "deleting",
  "failed",
] as const;

const vmError = z.object({ code: z.string(), message: z.string() });

export const vm = z.object({
  id: z.string(),
  name: z.string(),
  provider: z.string().describe("empty until it is placed, unless asked for"),
  region: z.string(),
  status: z.enum(vmStatuses),
  cpu: z.int(),
  memory: z.int().describe("bytes"),
  disk: z.int().describe("bytes"),
  public_ip: z.string(),
  private_ip: z.string(),
  created_at: z.iso.datetime(),
  updated_at: z.iso.datetime(),
  image: z.string(),
  network: z.string(),
  tags: z.record(z.string(), z.string()),
  pending_restart: z.array(z.string()).describe("fields that take effect at the next restart"),
  ports: z
    .array(
      z.object({ protocol: z.string(), guest_port: z.int(), host_address: z.string(), host_port: z.int() }),
    )
    .describe("ports of the host that lead to the guest"),
  host_id: z.string().nullable(),
  error: vmError.nullable(),
});
export type Vm = z.infer<typeof vm>;

const { cpus, memory_bytes: memory, disk_bytes: disk, image, provider, region } = instanceSpec.shape;

export const createVm = z.strictObject({
  name: nameSchema,
  provider: provider.unwrap().optional(),
  region: region.unwrap().optional(),
  cpu: cpus.unwrap().optional(),
  memory: memory.unwrap().optional(),
  disk: disk.unwrap().optional(),
  image,
  network: z.string().min(1).max(255).nullish(),
  tags: labelsSchema.optional(),
});

export const updateVm = z.strictObject({
  name: nameSchema.optional(),
  cpu: cpus.unwrap().optional(),
  memory: memory.unwrap().optional(),
  disk: disk.unwrap().optional(),
  tags: labelsPatchSchema.optional().describe("merged; null removes a tag"),
});
export type UpdateVm = z.infer<typeof updateVm>;

const fields = { cpus: "cpu", memory_bytes: "memory", disk_bytes: "disk", labels: "tags" } as const;
const toField = renamer(fields);

function sizes(body: Pick<UpdateVm, "cpu" | "memory" | "disk">) {
  return {
    ...(body.cpu !== undefined && { cpus: body.cpu }),
    ...(body.memory !== undefined && { memory_bytes: body.memory }),
    ...(body.disk !== undefined && { disk_bytes: body.disk }),
  };
}

export const vmKind = defineKind({
  definition: instance,
  path: "/vms",
  idName: "vm_id",
  noun: "VM",
  type: "Vm",
  types: "Vms",
  idPrefix: "vm",
  phases: vmPhases,
  fields,
  wire: vm,
  encode: encodeVm,
  pageSize: 50,
  examples: {
    create: {
      name: "web-server-01",
      provider: "aws",
      region: "us-east-1",
      cpu: 4,
      memory: 8 * GiB,
      disk: 80 * GiB,
      image: "ubuntu-22.04",
      network: "default",
      tags: { environment: "production" },
    },
    update: { cpu: 8, memory: 16 * GiB, tags: { updated: "true" } },
  },
  filters: z.object({ provider: z.string().max(63).optional(), status: z.enum(vmStatuses).optional() }),
  toQuery: ({ provider, status }) => ({
    ...(status && { phases: phasesOf(vmPhases, status) }),
    ...(provider !== undefined && { filters: { provider } }),
  }),
  create: {
    body: createVm,
    toInput: (body) => ({
      name: body.name,
      ...(body.tags && { labels: body.tags }),
      spec: {
        image: body.image,
        provider: body.provider ?? null,
        region: body.region ?? null,
        network: knownNetwork("network", body.network ?? "default"),
        ...sizes(body),
      },
    }),
  },
  update: {
    body: updateVm,
    toInput: (body) => ({
      ...(body.name !== undefined && { name: body.name }),
      ...(body.tags && { labels: body.tags }),
      spec: sizes(body),
    }),
  },
  deletes: true,
  actions: { start: { verb: "start" }, stop: { verb: "stop" }, restart: { verb: "restart" } },
});

function encodeVm(r: Instance): Vm {
  return {
    id: withPrefix(r.id, "vm"),
    name: r.name,
    provider: r.placement?.provider ?? r.desired.provider ?? "",
    region: r.placement?.region ?? r.desired.region ?? "",
    status: vmPhases[r.phase],
    cpu: r.desired.cpus,
    memory: r.desired.memory_bytes,
    disk: r.desired.disk_bytes,
    public_ip: "",
    private_ip: r.observed?.guest_address ?? "",
    created_at: r.createdAt.toISOString(),
    updated_at: r.updatedAt.toISOString(),
    image: r.desired.image ?? "",
    network: r.desired.network,
    tags: { ...r.labels },
    pending_restart: (r.observed?.pending_restart ?? []).map(toField),
    ports: (r.observed?.forwards ?? []).map((forward) => ({
      protocol: forward.protocol,
      guest_port: forward.guest_port,
      host_address: forward.host_address,
      host_port: forward.host_port,
    })),
    host_id: r.hostId ?? null,
    error: r.problem ? { code: r.problem.reason, message: r.problem.message } : observedError(r.observed),
  };
}

function observedError(status: InstanceStatus | undefined): z.infer<typeof vmError> | null {
  if (!status || status.reason === "") return null;
  return { code: status.reason, message: status.message };
}
