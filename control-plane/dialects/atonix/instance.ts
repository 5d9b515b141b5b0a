/** An instance as Atonix has it: sizes by flavor, labels as a list of tags, metadata beside them. */
import { z } from "zod";
import { nameSchema } from "../../http/native-json.ts";
import {
  instance,
  instanceSpec,
  type Instance,
  type InstancePhase,
} from "../../resources/instance/instance.resource.ts";
import { changeAction, phasesOf, withPrefix } from "../dialect.ts";
import { defineKind } from "../define-kind.ts";
import { knownNetwork } from "../networks.ts";
import { toGigabytes, toMegabytes } from "../sizes.ts";

export const instanceStatuses = {
  pending: "building",
  building: "building",
  running: "running",
  stopping: "stopping",
  stopped: "stopped",
  migrating: "migrating",
  deleting: "deleting",
  deleted: "deleting",
  failed: "error",
} as const satisfies Record<InstancePhase, string>;

const words = ["building", "running", "stopping", "stopped", "migrating", "deleting", "error"] as const;

const flavor = z.object({
  name: z.string().describe("`custom` when it has a size of its own"),
  vcpus: z.int(),
  memory_mb: z.int(),
  disk_gb: z.number(),
});

const wire = z.object({
  instance_id: z.string(),
  name: z.string(),
  status: z.enum(words),
  created_at: z.iso.datetime(),
  updated_at: z.iso.datetime(),
  public_ip: z.string().describe("empty without one"),
  private_ip: z.string().describe("empty until the guest has one"),
  flavor,
  image_id: z.string(),
  network_id: z.string(),
  key_pair: z.string().nullable(),
  tags: z.array(z.string()),
  metadata: z.record(z.string(), z.string()),
  provider: z.string().describe("empty until it is placed, unless asked for"),
  region: z.string(),
  error: z.object({ code: z.string(), message: z.string() }).nullable(),
});

const { image, flavor: flavorName, key_pair, metadata, provider, region, user_data } = instanceSpec.shape;
const tags = z.array(z.string().min(1).max(128)).max(64);

const createBody = z.strictObject({
  name: nameSchema,
  image_id: image.unwrap(),
  flavor: flavorName.unwrap().nullish(),
  network_id: z.string().min(1).max(255).nullish(),
  key_pair: key_pair.unwrap().nullish(),
  tags: tags.optional(),
  metadata: metadata.unwrap().optional(),
  provider: provider.unwrap().optional(),
  region: region.unwrap().optional(),
  user_data: user_data.unwrap().optional(),
});

const updateBody = z.strictObject({
  name: nameSchema.optional(),
  tags: tags.optional().describe("these and no others"),
  metadata: z.record(z.string(), z.string().nullable()).optional().describe("merged; null removes"),
});

const text = z.string().min(1).max(255).optional();

export const instanceKind = defineKind({
  definition: instance,
  path: "/compute/instances",
  idName: "instance_id",
  noun: "Instance",
  type: "Instance",
  types: "Instances",
  idPrefix: "i",
  phases: instanceStatuses,
  fields: {
    image: "image_id",
    network: "network_id",
    labels: "tags",
    cpus: "flavor",
    memory_bytes: "flavor",
    disk_bytes: "flavor",
  },
  wire,
  encode: encodeInstance,
  pageSize: 20,
  examples: {
    create: {
      name: "web-server-01",
      image_id: "ubuntu-22.04",
      flavor: "m1.large",
      network_id: "default",
      key_pair: "my-keypair",
      tags: ["production", "web"],
      metadata: { owner: "ops-team" },
    },
    update: { name: "web-server-02", metadata: { owner: "devops-team" } },
    actions: { resize: { flavor: "m1.xlarge" } },
  },
  filters: z.object({
    status: z.enum(words).optional(),
    name: text.describe("exact name"),
    tag: text.describe("has this tag"),
    flavor: text,
    region: text,
  }),
  toQuery: ({ status, name, tag, flavor, region }) => ({
    ...(status && { phases: phasesOf(instanceStatuses, status) }),
    ...(name !== undefined && { name }),
    ...(tag !== undefined && { labelKey: tag }),
    filters: { ...(flavor !== undefined && { flavor }), ...(region !== undefined && { region }) },
  }),
  create: {
    body: createBody,
    toInput: ({ name, image_id, network_id, tags = [], flavor, key_pair, ...rest }) => ({
      name,
      labels: Object.fromEntries(tags.map((tag) => [tag, ""])),
      spec: {
        image: image_id,
        flavor: flavor ?? null,
        key_pair: key_pair ?? null,
        network: knownNetwork("network_id", network_id ?? "default"),
        ...rest,
      },
    }),
  },
  update: {
    body: updateBody,
    toInput: ({ name, tags, metadata }) => ({
      ...(name !== undefined && { name }),
      ...(tags && { labelKeys: tags }),
      ...(metadata && { spec: { metadata } }),
    }),
  },
  deletes: true,
  actions: {
    start: { verb: "start" },
    stop: { verb: "stop" },
    reboot: { verb: "restart" },
    resize: changeAction({
      summary: "Give it the size of another flavor",
      body: z.strictObject({ flavor: flavorName.unwrap() }),
      toInput: ({ flavor }) => ({ spec: { flavor } }),
    }),
  },
});

function encodeInstance(r: Instance): z.infer<typeof wire> {
  const { desired, observed, placement, problem } = r;
  return {
    instance_id: withPrefix(r.id, "i"),
    name: r.name,
    status: instanceStatuses[r.phase],
    created_at: r.createdAt.toISOString(),
    updated_at: r.updatedAt.toISOString(),
    public_ip: "",
    private_ip: observed?.guest_address ?? "",
    flavor: {
      name: desired.flavor ?? "custom",
      vcpus: desired.cpus,
      memory_mb: toMegabytes(desired.memory_bytes),
      disk_gb: toGigabytes(desired.disk_bytes),
    },
    image_id: desired.image ?? "",
    network_id: desired.network,
    key_pair: desired.key_pair,
    tags: Object.keys(r.labels),
    metadata: desired.metadata,
    provider: placement?.provider ?? desired.provider ?? "",
    region: placement?.region ?? desired.region ?? "",
    error: toError(problem ?? observed),
  };
}

function toError(said: { readonly reason: string; readonly message: string } | undefined) {
  return said && said.reason !== "" ? { code: said.reason, message: said.message } : null;
}
