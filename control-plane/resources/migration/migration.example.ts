import type { Example } from "../definition.ts";
import type { MigrationStatus } from "./migration.resource.ts";

const GiB = 1024 ** 3;

/** A migration that is over, for the documents of the APIs. */
export const exampleMigration: Example<MigrationStatus> = {
  name: "web-server-01",
  spec: { instance: "vm-1m7zk3q9x4v8c2b6n5d0", provider: "azure", region: "eastus" },
  status: {
    stage: "complete",
    type: "live",
    source: { host_id: "host-1m7zk3q9x4v8c2b6n5d0", provider: "aws", region: "us-east-1" },
    target: { host_id: "host-1m7zk3q9x4v8c2b6n5d1", provider: "azure", region: "eastus" },
    waiting_for: null,
    waiting_since: null,
    progress: null,
    receipt: {
      duration_ms: 80_000,
      downtime_ms: 450,
      stopped_ms: 400,
      resumed_ms: 20,
      phase_ms: { "disk-copy": 60_000, "pre-copy": 19_000, switchover: 450 },
      bytes_total: 10 * GiB,
      bytes_sent: 6 * GiB,
      compression_ratio: 0.6,
      bytes: {
        memory_raw: 8 * GiB,
        memory_zero: 3 * GiB,
        memory_in_image: 0,
        memory_wire: 4 * GiB,
        disk_raw: 2 * GiB,
        disk_wire: 2 * GiB,
        disk_kept: 0,
      },
      rounds: 4,
      codec_history: [{ codec: "zstd", at_ms: 120 }],
      page_stage: true,
      convergence: null,
      cpu_seconds: { source: 31.5, target: 18.2 },
    },
    error: null,
    started_at: "2026-01-15T10:30:00Z",
    committed_at: "2026-01-15T10:31:19Z",
    ended_at: "2026-01-15T10:31:20Z",
  },
};
