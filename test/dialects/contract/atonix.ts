/** What the reference A documents of what is there. */
import type { Exchange, Shape } from "./exchange.ts";

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

export const atonix: readonly Exchange[] = [
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
    eventually: true,
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
