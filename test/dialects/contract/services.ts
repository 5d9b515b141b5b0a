/** What the reference B documents of what is there. */
import type { Exchange } from "./exchange.ts";

/** What the reference says of every resource, and what of this one. */
const servicesInstance = {
  id: "text",
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
  id: "text",
  status: "text",
  created_at: "time",
  name: "text",
  description: "text",
  os_type: "text",
  os_name: "text",
  os_version: "text",
  size_gb: "number",
  is_public: "flag",
} as const;
const servicesPath = "/api/v1/services/instances/{instance_id}";

const tokens = { access_token: "text", expires_in: "int", token_type: "text" } as const;

export const services: readonly Exchange[] = [
  {
    operation: "GET /api/auth/token/",
    headers: { authorization: "Token {api_key}" },
    status: 200,
    answer: tokens,
  },
  {
    operation: "GET /api/auth/token/",
    headers: { authorization: "Basic {basic}" },
    status: 200,
    answer: { ...tokens, refresh_token: "text" },
    keep: { refresh_token: ["refresh_token"] },
  },
  {
    operation: "POST /api/auth/refresh/",
    body: { refresh_token: "{refresh_token}" },
    status: 200,
    answer: { ...tokens, refresh_token: "text" },
  },
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
  // What the reference's programs in three languages send.
  {
    operation: "POST /api/v1/services/instances/",
    body: { name: "web-server", flavor: "t3-large", image: "ami-ubuntu2204", vpc_id: "vpc-12345678" },
    status: 201,
    answer: servicesInstance,
  },
  { operation: "GET /api/v1/services/instances/", status: 200, answer: [servicesInstance] },
  {
    operation: "GET /api/v1/services/instances/",
    query: "page=1&page_size=20",
    status: 200,
    answer: { count: "int", next: "text?", previous: "text?", results: [servicesInstance] },
  },
  {
    operation: "GET /api/v1/services/instances/",
    query: "status=running&flavor=t3-large&search=web-server&owner={username}&availability_zone={zone}",
    eventually: true,
    status: 200,
    answer: [servicesInstance],
  },
  { operation: `GET ${servicesPath}/`, status: 200, answer: servicesInstance },
  {
    operation: `PATCH ${servicesPath}/`,
    body: { name: "web-server-02-prod", enable_monitoring: true, tags: { version: "2.0" } },
    status: 200,
    answer: servicesInstance,
  },
  { operation: `POST ${servicesPath}/start/`, status: 202, answer: servicesInstance },
  {
    operation: `GET ${servicesPath}/metrics/`,
    eventually: true,
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
