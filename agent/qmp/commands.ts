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

type Empty = Readonly<Record<string, never>>;

export interface QmpCommands {
  qmp_capabilities: { arguments: Empty; returns: Empty };
  "query-status": { arguments: Empty; returns: QmpStatus };
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
  "human-monitor-command": { arguments: { readonly "command-line": string }; returns: string };
}

export type QmpCommand = keyof QmpCommands;

export interface QmpEvent {
  /** Such as SHUTDOWN, RESET, STOP, RESUME, BLOCK_IO_ERROR, MEMORY_DEVICE_SIZE_CHANGE. */
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
}
