import type { Example } from "../definition.ts";
import type { WorkloadStatus } from "./workload.resource.ts";

const GiB = 1024 ** 3;
const host = "host-1m7zk3q9x4v8c2b6n5d0";

/** A workload that runs, for the documents of the APIs. */
export const exampleWorkload: Example<WorkloadStatus> = {
  name: "ai-inference",
  labels: { environment: "production" },
  spec: {
    image: "novacron/ai-model:latest",
    type: "ai-inference",
    cpus: 2,
    memory_bytes: 4 * GiB,
    environment: { MODEL: "small" },
    ports: [{ container_port: 8080, host_address: "0.0.0.0" }],
    health: { command: ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/"] },
    target_location: { latitude: 40.7128, longitude: -74.006 },
  },
  status: {
    host_id: host,
    state: "running",
    reason: "",
    message: "",
    health: "healthy",
    exit_code: null,
    ports: [{ protocol: "tcp", container_port: 8080, host_port: 40_123, host_address: "0.0.0.0" }],
    started_at: "2026-01-15T10:30:40Z",
    restarts: 0,
    crashes: 0,
    engine: "podman",
  },
  placement: { host_id: host, provider: "shop", region: "us-east", zone: "nyc", explanation: {} },
};
