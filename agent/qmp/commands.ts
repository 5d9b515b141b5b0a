/** The QMP commands and events that we use, as types: name -> arguments and reply. Sizes are bytes. */

export interface QmpStatus {
  /** Such as running, paused, io-error, prelaunch, inmigrate, postmigrate, guest-panicked, shutdown. */
  readonly status: string;
  readonly running: boolean;
}

export interface HotpluggableCpu {
  readonly type: string;
  readonly props: Readonly<Record<string, number>>;
  /** Present when the slot is filled. */
  readonly "qom-path"?: string;
}

export interface MemoryDevice {
  readonly type: string;
  readonly data: {
    readonly id?: string;
    readonly size: number;
    readonly "requested-size"?: number;
    readonly "max-size"?: number;
    readonly "block-size"?: number;
  };
}

/** What a guest with a balloon driver tells of itself; a number it does not tell is far beyond any size. */
export interface GuestMemoryStats {
  /** 0: it has not told anything yet. */
  readonly "last-update": number;
  readonly stats: Readonly<Record<string, number>>;
}

export interface BlockStats {
  readonly "node-name"?: string;
  readonly qdev?: string;
  readonly stats: {
    readonly rd_bytes: number;
    readonly wr_bytes: number;
    readonly rd_operations: number;
    readonly wr_operations: number;
  };
}

export type MigrationState =
  | "none"
  | "setup"
  | "active"
  | "pre-switchover"
  | "device"
  | "postcopy-device"
  | "postcopy-active"
  | "postcopy-paused"
  | "postcopy-recover-setup"
  | "postcopy-recover"
  | "completed"
  | "failed"
  | "cancelling"
  | "cancelled";

export interface MigrationInfo {
  /** Absent: there has been none. */
  readonly status?: MigrationState;
  readonly "error-desc"?: string;
  readonly "total-time"?: number;
  /** Milliseconds from the guest's stop until all had arrived; when completed. */
  readonly downtime?: number;
  /** At the destination: where it listens. */
  readonly "socket-address"?: readonly object[];
  readonly "cpu-throttle-percentage"?: number;
  readonly ram?: {
    readonly total: number;
    readonly remaining: number;
    readonly transferred: number;
    /** Pages of zeros. */
    readonly duplicate: number;
    readonly "page-size": number;
    readonly "dirty-sync-count": number;
    readonly "dirty-pages-rate": number;
    /** Pages that the guest at the destination waited for, and bytes sent since it runs there. */
    readonly "postcopy-requests"?: number;
    readonly "postcopy-bytes"?: number;
  };
}

export interface YankInstance {
  readonly type: "block-node" | "chardev" | "migration";
  readonly "node-name"?: string;
  readonly id?: string;
}

export interface BlockJob {
  /** The job's id. */
  readonly device: string;
  /** Such as running, ready, paused, standby, waiting, pending, aborting, concluded. */
  readonly status: string;
  readonly ready: boolean;
  readonly len: number;
  readonly offset: number;
  readonly "io-status": "ok" | "failed" | "nospace";
  /** Why a concluded job did not do what it was to do. */
  readonly error?: string;
}

export interface DirtyBitmap {
  readonly name: string;
  readonly recording: boolean;
  readonly persistent: boolean;
  readonly busy: boolean;
  /** It was not stored when QEMU last had the disk. */
  readonly inconsistent?: boolean;
  /** Bytes that it marks. */
  readonly count: number;
}

interface NewBitmap {
  readonly node: string;
  readonly name: string;
  readonly granularity: number;
  readonly persistent?: boolean;
  readonly disabled?: boolean;
}

interface BitmapName {
  readonly node: string;
  readonly name: string;
}

/** What can be done at one moment, together. */
export type TransactionAction =
  | { readonly type: "block-dirty-bitmap-add"; readonly data: NewBitmap }
  | { readonly type: "block-dirty-bitmap-clear"; readonly data: BitmapName }
  | {
      readonly type: "block-dirty-bitmap-merge";
      readonly data: { readonly node: string; readonly target: string; readonly bitmaps: readonly string[] };
    };

type Empty = Readonly<Record<string, never>>;

export interface QmpCommands {
  qmp_capabilities: { arguments: { readonly enable?: readonly string[] }; returns: Empty };
  "query-status": { arguments: Empty; returns: QmpStatus };
  "query-version": { arguments: Empty; returns: { readonly qemu: { readonly major: number } } };
  "query-kvm": { arguments: Empty; returns: { readonly enabled: boolean; readonly present: boolean } };
  "query-cpus-fast": { arguments: Empty; returns: readonly object[] };
  "query-hotpluggable-cpus": { arguments: Empty; returns: readonly HotpluggableCpu[] };
  "query-memory-size-summary": { arguments: Empty; returns: { readonly "base-memory": number } };
  "query-memory-devices": { arguments: Empty; returns: readonly MemoryDevice[] };
  "query-blockstats": { arguments: Empty; returns: readonly BlockStats[] };
  device_add: { arguments: { readonly [name: string]: string | number }; returns: Empty };
  "qom-set": {
    arguments: { readonly path: string; readonly property: string; readonly value: number };
    returns: Empty;
  };
  "qom-get": {
    arguments: { readonly path: string; readonly property: string };
    returns: unknown;
  };
  block_resize: { arguments: { readonly "node-name": string; readonly size: number }; returns: Empty };
  system_powerdown: { arguments: Empty; returns: Empty };
  cont: { arguments: Empty; returns: Empty };
  quit: { arguments: Empty; returns: Empty };
  migrate: { arguments: { readonly uri: string; readonly resume?: boolean }; returns: Empty };
  "migrate-incoming": { arguments: { readonly uri: string }; returns: Empty };
  /** Of a migration that has the capability: the guest is to stop now, and what is left of its memory to follow it. */
  "migrate-start-postcopy": { arguments: Empty; returns: Empty };
  /** Post-copy: ends a connection that neither end has noticed to be dead. */
  "migrate-pause": { arguments: Empty; returns: Empty };
  /** At the destination of a post-copy whose connection was lost: where to listen for the next. */
  "migrate-recover": { arguments: { readonly uri: string }; returns: Empty };
  "migrate-continue": { arguments: { readonly state: MigrationState }; returns: Empty };
  migrate_cancel: { arguments: Empty; returns: Empty };
  "migrate-set-capabilities": {
    arguments: { readonly capabilities: readonly { readonly capability: string; readonly state: boolean }[] };
    returns: Empty;
  };
  "migrate-set-parameters": { arguments: Readonly<Record<string, number>>; returns: Empty };
  "query-migrate": { arguments: Empty; returns: MigrationInfo };
  "query-yank": { arguments: Empty; returns: readonly YankInstance[] };
  /** Shuts connections down that QEMU may be waiting for. */
  yank: { arguments: { readonly instances: readonly YankInstance[] }; returns: Empty };
  "nbd-server-start": {
    arguments: { readonly addr: { readonly type: "unix"; readonly data: { readonly path: string } } };
    returns: Empty;
  };
  "nbd-server-stop": { arguments: Empty; returns: Empty };
  "block-export-add": {
    arguments: {
      readonly type: "nbd";
      readonly id: string;
      readonly "node-name": string;
      readonly name: string;
      readonly writable: boolean;
      /** Told to those who read, by names of metadata contexts. */
      readonly bitmaps?: readonly string[];
    };
    returns: Empty;
  };
  "query-block-exports": { arguments: Empty; returns: readonly { readonly id: string }[] };
  "blockdev-add": { arguments: Readonly<Record<string, unknown>>; returns: Empty };
  "blockdev-del": { arguments: { readonly "node-name": string }; returns: Empty };
  "query-named-block-nodes": {
    arguments: { readonly flat: true };
    returns: readonly {
      readonly "node-name"?: string;
      readonly "dirty-bitmaps"?: readonly DirtyBitmap[];
    }[];
  };
  "block-dirty-bitmap-add": { arguments: NewBitmap; returns: Empty };
  "block-dirty-bitmap-remove": { arguments: BitmapName; returns: Empty };
  transaction: { arguments: { readonly actions: readonly TransactionAction[] }; returns: Empty };
  "blockdev-mirror": { arguments: Readonly<Record<string, string | number | boolean>>; returns: Empty };
  "blockdev-backup": { arguments: Readonly<Record<string, string | boolean>>; returns: Empty };
  "query-block-jobs": { arguments: Empty; returns: readonly BlockJob[] };
  "block-job-cancel": { arguments: { readonly device: string; readonly force?: boolean }; returns: Empty };
  "block-job-resume": { arguments: { readonly device: string }; returns: Empty };
  "job-dismiss": { arguments: { readonly id: string }; returns: Empty };
  "human-monitor-command": { arguments: { readonly "command-line": string }; returns: string };
}

export type QmpCommand = keyof QmpCommands;

export interface QmpEvent {
  /** Such as SHUTDOWN, RESET, STOP, RESUME, BLOCK_IO_ERROR, MEMORY_DEVICE_SIZE_CHANGE. */
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** Unix milliseconds by QEMU's clock. */
  readonly atMs: number;
}
