/** What the reference C documents of what is there. */
import type { Exchange } from "./exchange.ts";

const GiB = 1024 ** 3;

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

const migration = {
  migration_id: "text",
  vm_id: "text",
  status: "=completed",
  phase: "=complete",
  source_provider: "text",
  target_provider: "text",
  started_at: "time",
  completed_at: "time",
  downtime: "text",
  data_transferred: "int",
  compression_ratio: "number",
} as const;
const user = {
  id: "text",
  username: "text",
  email: "text?",
  roles: "texts",
  mfa_enabled: "flag",
  created_at: "time",
} as const;

export const novacron: readonly Exchange[] = [
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
    eventually: true,
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
  {
    operation: "GET /v1/vms/{vm_id}",
    eventually: true,
    status: 200,
    answer: { ...vm, status: "=running" },
  },
  {
    operation: "POST /v1/vms/{vm_id}/migrate",
    body: {
      target_provider: "azure",
      target_region: "eastus",
      migration_type: "live",
      enable_wan_optimization: true,
      max_downtime: "1s",
    },
    status: 202,
    answer: {
      migration_id: "text",
      vm_id: "text",
      status: "text",
      phase: "text",
      started_at: "time",
      estimated_completion: "time",
    },
    keep: { migration_id: ["migration_id"] },
  },
  { operation: "GET /v1/migrations/{migration_id}", eventually: true, status: 200, answer: migration },
  {
    operation: "GET /v1/migrations",
    query: "status=completed&page=1&limit=20",
    status: 200,
    answer: { migrations: [migration], total: "int", page: "int", limit: "int" },
  },
  {
    operation: "GET /v1/vms/{vm_id}/metrics",
    query: "start_time={start_time}&end_time={end_time}",
    eventually: true,
    status: 200,
    answer: {
      vm_id: "text",
      metrics: [
        {
          timestamp: "time",
          cpu_usage: "number",
          memory_usage: "number",
          network_in: "number",
          network_out: "number",
        },
      ],
    },
  },
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
  {
    operation: "GET /v1/providers",
    status: 200,
    answer: {
      providers: [
        {
          name: "text",
          regions: "texts",
          available: "flag",
          resources: {
            total_cpu: "int",
            available_cpu: "int",
            total_memory: "int",
            available_memory: "int",
          },
          pricing: { cpu_per_hour: "number", memory_per_gb: "number", currency: "text" },
        },
      ],
    },
  },
  {
    operation: "POST /v1/providers/optimal",
    body: { cpu: 4, memory: 8 * GiB, disk: 100 * GiB, optimize_for: "cost" },
    status: 200,
    answer: {
      provider: "text",
      region: "text",
      score: "number",
      estimated_cost: "number",
      reasoning: "texts",
    },
  },
  {
    operation: "POST /v1/edge/workloads",
    body: {
      name: "ai-inference",
      type: "ai-inference",
      image: "novacron/ai-model:latest",
      resources: { cpu: 2, memory: 4 * GiB, gpu: 1 },
      target_location: { latitude: 40.7128, longitude: -74.006 },
    },
    status: 201,
    answer: { id: "text", name: "text", type: "text", image: "text", status: "text" },
  },
  {
    operation: "GET /v1/edge/nodes",
    status: 200,
    answer: {
      nodes: [
        {
          id: "text",
          name: "text",
          location: { latitude: "number", longitude: "number", city: "text", country: "text" },
          status: "text",
          resources: { cpu: "int", memory: "int", disk: "int", gpu: "int" },
          workloads: "int",
          last_heartbeat: "time",
        },
      ],
    },
  },
  {
    operation: "POST /v1/users",
    body: { username: "newuser", email: "newuser@example.com", roles: ["operator"], mfa_enabled: true },
    status: 201,
    answer: user,
    keep: { user_id: ["id"] },
  },
  {
    operation: "POST /v1/users/{user_id}/roles",
    body: { role_id: "role-operator" },
    status: 200,
    answer: user,
  },
  {
    operation: "GET /v1/users",
    status: 200,
    answer: { users: [user], total: "int", page: "int", limit: "int" },
    keep: { user_id: ["users", "0", "id"] },
  },
  {
    operation: "GET /v1/audit/logs",
    query: "user_id={user_id}&action=vm.create&start_time=2025-10-01&end_time={end_time}",
    status: 200,
    answer: {
      events: [
        {
          id: "text",
          action: "text",
          user_id: "text",
          resource: "text",
          resource_id: "text",
          timestamp: "time",
          success: "flag",
          ip_address: "text",
        },
      ],
      total: "int",
      page: "int",
    },
  },
];
