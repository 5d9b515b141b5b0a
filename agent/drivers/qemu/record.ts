/** The little that neither the plan nor QEMU itself can tell after the agent was killed; one file in the machine's folder. */
import { readFile, rename, writeFile } from "node:fs/promises";
import { Fault } from "#kernel/fault.ts";
import { type Move, MoveType } from "#gen/skerry/agent/v1/migration_pb.js";
import type { Forward } from "../hypervisor/forwards.ts";
import { hostFault } from "../hypervisor/host-fault.ts";

/** A move that this machine is part of, until a plan without one has ended it. */
export interface MoveRecord {
  readonly id: string;
  readonly role: "source" | "destination";
  /** Its disk only: the QEMU that there may be never runs the guest. */
  readonly cold: boolean;
  /** Source: memory may have been sent. Destination: its QEMU was started, so that its end is the move's. */
  readonly begun: boolean;
  /** Source: its memory's stream was begun before anybody was there to take it, which is tried once. */
  readonly ahead?: boolean;
  /** The whole machine has arrived at the destination. Source: it may have been handed over. */
  readonly complete: boolean;
  /** Source: what is left of the memory is to follow the guest. */
  readonly postCopy?: boolean;
  /** Destination: the migration since which the disk that it has taken was kept; absent: it is new. */
  readonly baseline?: string | undefined;
  /** Of a post-copy: the guest is the destination's, with or without all of its memory. */
  readonly committed?: boolean;
}

/** How a move begins on the record, before anything was done for it. */
export function beginMoveRecord({ migrationId, type }: Move, role: MoveRecord["role"]): MoveRecord {
  return { id: migrationId, role, cold: type === MoveType.COLD, begun: false, complete: false };
}

export interface MachineRecord {
  /** The guest was asked to shut down; it may do so at any moment from then on. */
  readonly stopRequested: boolean;
  /** Where forwards were; a chosen port is chosen again. */
  readonly forwards: readonly Forward[];
  /** How its QEMU was started last, as `encodeShape` writes it; empty: never. */
  readonly shape: string;
  readonly move: MoveRecord | undefined;
  /** The migration by which it came here, since which its disk may know what was written; empty: none. */
  readonly baseline: string;
}

export const emptyRecord: MachineRecord = {
  stopRequested: false,
  forwards: [],
  shape: "",
  move: undefined,
  baseline: "",
};

/** The record, or an empty one when there is none or a crash of the host tore it. */
export async function readRecord(path: string): Promise<MachineRecord> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return emptyRecord;
    throw new Fault("unavailable", "the machine's record cannot be read", {
      reason: "HOST_DISK_FAILED",
      cause: error,
    });
  }
  try {
    return { ...emptyRecord, ...(JSON.parse(text) as Partial<MachineRecord>) };
  } catch (error) {
    if (error instanceof SyntaxError) return emptyRecord;
    throw error;
  }
}

/** Replaces the record whole. */
export async function writeRecord(path: string, record: MachineRecord): Promise<void> {
  try {
    await writeFile(`${path}.new`, JSON.stringify(record), { mode: 0o600 });
    await rename(`${path}.new`, path);
  } catch (error) {
    throw hostFault(error, "the machine's record cannot be written");
  }
}
