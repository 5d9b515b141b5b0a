/** An instance as the Services API has it: two ids for one thing, an image and a flavor by name, tags as a map. */
import { z } from "zod";
import { labelsPatchSchema, labelsSchema, nameSchema } from "../../http/native-json.ts";
import {
  instance,
  instanceSpec,
  type Instance,
  type InstancePhase,
} from "../../resources/instance/instance.resource.ts";
import { defineKind } from "../define-kind.ts";
import { phasesOf, withPrefix } from "../dialect.ts";
import { fromGigabytes, toGigabytes, toMegabytes } from "../sizes.ts";

export const instanceStatuses = {
  pending: "pending",
  building: "pending",
  running: "running",
  stopping: "stopping",
  stopped: "stopped",
  migrating: "migrating",
  deleting: "terminating",
  deleted: "terminated",
  failed: "failed",
} as const satisfies Record<InstancePhase, string>;

const words = [
  "pending",
  "running",
  "stopping",
  "stopped",
  "migrating",
  "terminating",
  "terminated",
  "failed",
] as const;

const wire = z.object({
  id: z.string().describe("the same as resource_id"),
  resource_id: z.string(),
  instance_id: z.string(),
  name: z.string(),
  description: z.string(),
  status: z.enum(words),
  flavor_name: z.string().describe("`custom` when it has a size of its own"),
  image_name: z.string(),
  vcpus: z.int(),
  memory_mb: z.int(),
  root_volume_size_gb: z.number(),
  private_ip: z.string().describe("empty until the guest has one"),
  public_ip: z.string().describe("empty without one"),
  vpc_id: z.string(),
  subnet_id: z.string().nullable(),
  security_groups: z.array(z.string()),
  key_pair: z.string().nullable(),
  availability_zone: z.string().describe("empty until it is placed"),
  region: z.string(),
  owner: z.string(),
  enable_monitoring: z.boolean(),
  tags: z.record(z.string(), z.string()),
  created_at: z.iso.datetime(),
  updated_at: z.iso.datetime(),
  error: z.object({ code: z.string(), message: z.string() }).nullable(),
});

const { image, flavor, key_pair, description, security_groups, region, user_data } = instanceSpec.shape;
const id = z.string().min(1).max(255);
const diskSize = z.int().min(1).max(65_536);

const createBody = z.strictObject({
  name: nameSchema,
  description: description.unwrap().optional(),
  flavor: flavor.unwrap().nullish(),
  image: image.unwrap(),
  vpc_id: id
    .nullish()
    .describe("kept with it; until there are networks of one's own, all is in the default one"),
  subnet_id: id.nullish().describe("kept with it"),
  security_groups: security_groups
    .unwrap()
    .optional()
    .describe("kept with it; the default network filters nothing"),
  key_pair: key_pair.unwrap().nullish(),
  root_volume_size_gb: diskSize.optional(),
  enable_monitoring: z.boolean().optional(),
  user_data: user_data.unwrap().optional(),
  region: region.unwrap().nullish(),
  tags: labelsSchema.optional(),
});

const updateBody = z.strictObject({
  name: nameSchema.optional(),
  description: description.unwrap().optional(),
  root_volume_size_gb: diskSize.optional(),
  enable_monitoring: z.boolean().optional(),
  tags: labelsPatchSchema.optional().describe("merged; null removes a tag"),
});

const text = z.string().min(1).max(255).optional();

export const instanceKind = defineKind({
  definition: instance,
  path: "/instances",
  idName: "instance_id",
  noun: "Instance",
  type: "Instance",
  types: "Instances",
  idPrefix: "i",
  phases: instanceStatuses,
  fields: {
    labels: "tags",
    cpus: "flavor",
    memory_bytes: "flavor",
    disk_bytes: "root_volume_size_gb",
    network: "vpc_id",
    subnet: "subnet_id",
    monitoring: "enable_monitoring",
  },
  wire,
  encode: encodeInstance,
  pageSize: 20,
  examples: {
    create: {
      name: "web-server-01",
      flavor: "t3-large",
      image: "ami-ubuntu2204",
      security_groups: ["sg-web"],
      root_volume_size_gb: 100,
      enable_monitoring: true,
      tags: { environment: "production" },
    },
    update: { name: "web-server-02", tags: { version: "2.0" } },
  },
  showsDeparted: true,
  filters: z.object({
    status: z.enum(words).optional().describe("`terminated`: those of the last hour"),
    flavor: text.describe("name of its flavor"),
    search: text.describe("part of its name or id"),
    owner: text.describe("username of whoever made it"),
    availability_zone: text,
    region: text,
  }),
  toQuery: ({ status, search, flavor, owner, availability_zone: zone, region }) => ({
    ...(status && { phases: phasesOf(instanceStatuses, status) }),
    ...(search !== undefined && { search }),
    filters: {
      ...(flavor !== undefined && { flavor }),
      ...(owner !== undefined && { owner }),
      ...(zone !== undefined && { zone }),
      ...(region !== undefined && { region }),
    },
  }),
  create: {
    body: createBody,
    toInput: ({ name, tags, vpc_id, subnet_id, enable_monitoring, root_volume_size_gb: size, ...rest }) => ({
      name,
      ...(tags && { labels: tags }),
      spec: {
        ...rest,
        network: vpc_id ?? "default",
        subnet: subnet_id ?? null,
        monitoring: enable_monitoring ?? true,
        ...(size !== undefined && { disk_bytes: fromGigabytes(size) }),
      },
    }),
  },
  update: {
    body: updateBody,
    toInput: ({ name, tags, enable_monitoring, root_volume_size_gb: size, description }) => ({
      ...(name !== undefined && { name }),
      ...(tags && { labels: tags }),
      spec: {
        ...(description !== undefined && { description }),
        ...(enable_monitoring !== undefined && { monitoring: enable_monitoring }),
        ...(size !== undefined && { disk_bytes: fromGigabytes(size) }),
      },
    }),
  },
  actions: {
    start: { verb: "start" },
    stop: { verb: "stop" },
    reboot: { verb: "restart" },
    terminate: { deletes: true, summary: "Delete it with its disk" },
  },
});

function encodeInstance(r: Instance): z.infer<typeof wire> {
  const { desired, observed, placement } = r;
  const said = r.problem ?? observed;
  const resourceId = withPrefix(r.id, "res");
  return {
    id: resourceId,
    resource_id: resourceId,
    instance_id: withPrefix(r.id, "i"),
    name: r.name,
    description: desired.description,
    status: instanceStatuses[r.phase],
    flavor_name: desired.flavor ?? "custom",
    image_name: desired.image ?? "",
    vcpus: desired.cpus,
    memory_mb: toMegabytes(desired.memory_bytes),
    root_volume_size_gb: toGigabytes(desired.disk_bytes),
    private_ip: observed?.guest_address ?? "",
    public_ip: "",
    vpc_id: desired.network,
    subnet_id: desired.subnet,
    security_groups: desired.security_groups,
    key_pair: desired.key_pair,
    availability_zone: placement?.zone ?? "",
    region: placement?.region ?? desired.region ?? "",
    owner: r.owner,
    enable_monitoring: desired.monitoring,
    tags: { ...r.labels },
    created_at: r.createdAt.toISOString(),
    updated_at: r.updatedAt.toISOString(),
    error: said && said.reason !== "" ? { code: said.reason, message: said.message } : null,
  };
}
