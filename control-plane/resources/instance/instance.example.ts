import type { Example } from "../definition.ts";
import type { InstanceStatus } from "./instance.resource.ts";

const GiB = 1024 ** 3;
const size = { cpus: 4, memory_bytes: 8 * GiB, disk_bytes: 80 * GiB };
const host = "host-1m7zk3q9x4v8c2b6n5d0";

/** An instance that runs, for the documents of the APIs. */
export const exampleInstance: Example<InstanceStatus> = {
  name: "web-server-01",
  labels: { environment: "production" },
  spec: {
    ...size,
    image: "ubuntu-22.04",
    flavor: "m1.large",
    key_pair: "my-keypair",
    description: "Front of the shop",
    metadata: { owner: "ops-team" },
  },
  status: {
    ...size,
    host_id: host,
    state: "running",
    reason: "",
    message: "",
    pending_restart: [],
    guest_address: "10.0.2.15",
    forwards: [],
    started_at: "2026-01-15T10:30:40Z",
    restarts: 0,
    crashes: 0,
    driver: "qemu",
    acceleration: "kvm",
    image_bytes_done: 734_003_200,
    image_bytes_total: 734_003_200,
    migration: null,
  },
  placement: { host_id: host, provider: "aws", region: "us-east-1", zone: "us-east-1a", explanation: {} },
};
