/** The documented operations that are there so far, in an order in which each finds what it needs. */
import type { DialectName } from "./documented.ts";
import type { Exchange, Shape } from "./exchange.ts";

const GiB = 1024 ** 3;

const inEnvelope = (data: Shape): Shape => ({
  success: "flag",
  data,
  meta: { request_id: "text", timestamp: "time" },
});

const flavored = { name: "text", vcpus: "int", memory_mb: "int", disk_gb: "int" } as const;
const atonixInstance = {
  instance_id: "text",
  name: "text",
  status: "text",
  created_at: "time",
  public_ip: "text",
  private_ip: "text",
  flavor: flavored,
} as const;
const atonixPath = "/v1/compute/instances/{instance_id}";

const atonix: readonly Exchange[] = [
  {
    operation: "POST /v1/compute/instances",
    body: {
      name: "web-server-01",
      image_id: "ubuntu-20.04-lts",
      flavor: "m1.large",
      network_id: "default",
      key_pair: "my-keypair",
      tags: ["production", "web"],
      metadata: { environment: "prod", owner: "ops-team" },
    },
    status: 201,
    answer: inEnvelope({ ...atonixInstance, tags: "texts", metadata: "map" }),
    keep: { instance_id: ["data", "instance_id"] },
  },
  {
    operation: "GET /v1/compute/instances",
    query: "status=running&limit=20&offset=0",
    running: "instance_id",
    status: 200,
    answer: {
      ...(inEnvelope([atonixInstance]) as object),
      pagination: { limit: "int", offset: "int", total: "int" },
    },
  },
  { operation: `GET ${atonixPath}`, status: 200, answer: inEnvelope(atonixInstance) },
  {
    operation: `PATCH ${atonixPath}`,
    body: { name: "web-server-01-updated", metadata: { owner: "devops-team" } },
    status: 200,
    answer: inEnvelope(atonixInstance),
  },
  { operation: `POST ${atonixPath}/start`, status: 202, answer: inEnvelope(atonixInstance) },
  { operation: `POST ${atonixPath}/reboot`, status: 202, answer: inEnvelope(atonixInstance) },
  {
    operation: `POST ${atonixPath}/resize`,
    body: { flavor: "m1.xlarge" },
    status: 202,
    answer: inEnvelope(atonixInstance),
  },
  { operation: `POST ${atonixPath}/stop`, status: 202, answer: inEnvelope(atonixInstance) },
  { operation: `DELETE ${atonixPath}`, status: 202, answer: inEnvelope(atonixInstance) },
];

const servicesInstance = {
  resource_id: "text",
  instance_id: "text",
  name: "text",
  status: "text",
  flavor_name: "text",
  image_name: "text",
  private_ip: "text",
  public_ip: "text",
  created_at: "time",
  tags: "map",
} as const;
const flavor = {
  flavor_id: "text",
  name: "text",
  vcpus: "int",
  memory_mb: "int",
  disk_gb: "int",
  network_bandwidth_gbps: "number",
  gpu_count: "int",
  hourly_cost_usd: "decimal",
  is_active: "flag",
  is_gpu: "flag",
} as const;
const image = {
  name: "text",
  description: "text",
  os_type: "text",
  os_name: "text",
  os_version: "text",
  size_gb: "number",
  is_public: "flag",
} as const;
const servicesPath = "/api/v1/services/instances/{instance_id}";

const services: readonly Exchange[] = [
  {
    operation: "POST /api/v1/services/instances/",
    body: {
      name: "web-server-02",
      description: "Production web server",
      flavor: "t3-large",
      image: "ami-ubuntu2204",
      vpc_id: "vpc-12345678",
      subnet_id: "subnet-87654321",
      security_groups: ["sg-default", "sg-web"],
      root_volume_size_gb: 100,
      enable_monitoring: true,
      tags: { environment: "production", team: "platform" },
    },
    status: 201,
    answer: servicesInstance,
    keep: { instance_id: ["instance_id"] },
  },
  {
    operation: "GET /api/v1/services/instances/",
    query: "page=1&page_size=20",
    status: 200,
    answer: { count: "int", next: "text?", previous: "text?", results: [servicesInstance] },
  },
  { operation: `GET ${servicesPath}/`, status: 200, answer: servicesInstance },
  {
    operation: `PATCH ${servicesPath}/`,
    body: { name: "web-server-02-prod", enable_monitoring: true, tags: { version: "2.0" } },
    status: 200,
    answer: servicesInstance,
  },
  { operation: `POST ${servicesPath}/start/`, running: "instance_id", status: 202, answer: servicesInstance },
  {
    operation: `GET ${servicesPath}/metrics/`,
    status: 200,
    answer: [
      {
        cpu_usage_percent: "number",
        memory_usage_percent: "number",
        disk_usage_percent: "number",
        network_in_bytes: "int",
        network_out_bytes: "int",
        created_at: "time",
      },
    ],
  },
  { operation: `POST ${servicesPath}/stop/`, status: 202, answer: servicesInstance },
  { operation: `POST ${servicesPath}/terminate/`, status: 202, answer: servicesInstance },
  { operation: "GET /api/v1/services/flavors/", status: 200, answer: [flavor] },
  { operation: "GET /api/v1/services/flavors/gpu_flavors/", status: 200, answer: [flavor] },
  { operation: "GET /api/v1/services/images/", query: "is_public=true", status: 200, answer: [image] },
  {
    operation: "POST /api/v1/services/images/",
    body: {
      name: "my-custom-app-image",
      description: "Custom app with dependencies",
      os_type: "linux",
      os_name: "Ubuntu",
      os_version: "22.04",
      size_gb: 50,
    },
    status: 201,
    answer: image,
  },
];

const vm = {
  id: "text",
  name: "text",
  provider: "text",
  region: "text",
  status: "text",
  cpu: "int",
  memory: "int",
  disk: "int",
  public_ip: "text",
  private_ip: "text",
  created_at: "time",
  updated_at: "time",
} as const;

const novacron: readonly Exchange[] = [
  {
    operation: "POST /v1/auth/login",
    body: { username: "{username}", password: "{password}", mfa_code: "123456" },
    status: 200,
    answer: { access_token: "text", refresh_token: "text", expires_in: "int", token_type: "text" },
  },
  {
    operation: "POST /v1/vms",
    body: {
      name: "web-server-2",
      provider: "aws",
      region: "us-east-1",
      cpu: 4,
      memory: 8 * GiB,
      disk: 100 * GiB,
      image: "ubuntu-22.04",
      network: "default",
      tags: { environment: "production", team: "backend" },
    },
    status: 201,
    answer: { id: "text", name: "text", status: "text", created_at: "time" },
    keep: { vm_id: ["id"] },
  },
  {
    operation: "GET /v1/vms",
    query: "page=1&limit=50&provider=aws&status=running",
    running: "vm_id",
    status: 200,
    answer: { vms: [vm], total: "int", page: "int", limit: "int" },
  },
  { operation: "GET /v1/vms/{vm_id}", status: 200, answer: vm },
  {
    operation: "PATCH /v1/vms/{vm_id}",
    body: { cpu: 8, memory: 16 * GiB, tags: { environment: "production", team: "backend", updated: "true" } },
    status: 200,
    answer: vm,
  },
  { operation: "POST /v1/vms/{vm_id}/start", status: 202, answer: vm },
  { operation: "POST /v1/vms/{vm_id}/restart", status: 202, answer: vm },
  { operation: "POST /v1/vms/{vm_id}/stop", status: 202, answer: vm },
  { operation: "DELETE /v1/vms/{vm_id}", status: 202, answer: vm },
  {
    operation: "GET /v1/metrics/system",
    status: 200,
    answer: {
      timestamp: "time",
      cpu_usage: "number",
      memory_usage: "number",
      disk_usage: "number",
      network_in: "number",
      network_out: "number",
      active_vms: "int",
      active_migrations: "int",
    },
  },
];

export const exchanges: Readonly<Record<DialectName, readonly Exchange[]>> = { atonix, services, novacron };
