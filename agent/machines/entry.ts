/** What the ledger holds of one machine, and its form on disk: JSON with a checksum. */
import { createHash } from "node:crypto";
import { fromJson, toJson } from "@bufbuild/protobuf";
import { Fault } from "#kernel/fault.ts";
import { type MachineSpec, MachineSpecSchema } from "#gen/skerry/agent/v1/machine_pb.js";
import { type MoveStatus, MoveStatusSchema } from "#gen/skerry/agent/v1/migration_pb.js";
import type { AdoptionEnd, LocalImage } from "../drivers/driver.ts";
import { compareFences, type Fence } from "./fence.ts";

/** What the control plane wants. Changed only by accepting a command. */
export interface Intent {
  readonly fence: Fence;
  /** Undefined: it is to be removed. */
  readonly spec: MachineSpec | undefined;
  /** Of a removal: how long its disks stay, as a stale copy. Absent: not at all. */
  readonly keepDisksSeconds?: number;
  /** Of a removal: what becomes of a machine that was adopted. Absent: it is handed back as it is. */
  readonly adoptionEnd?: AdoptionEnd;
}

/** Ended without being asked, and to be left so until its owner asks anew. */
export interface Halt {
  readonly reason: string;
  readonly message: string;
  /** The intent it ended under; a later generation starts it again. */
  readonly generation: bigint;
}

/** How far the agent has come. Changed only by the machine's own work. */
export interface Progress {
  readonly seq: bigint;
  readonly generationReached: bigint;
  /** Restarts asked for that have been done. */
  readonly restarts: bigint;
  readonly crashes: bigint;
  /** Unix milliseconds of the latest crashes, for the cap on restarts. */
  readonly crashedAtMs: readonly number[];
  readonly halt: Halt | undefined;
  /** Host ports chosen for forwards that left the choice to us. */
  readonly hostPorts: Readonly<Record<string, number>>;
  /** Devices of the host's that it was given, which nobody else gets. */
  readonly devices: readonly string[];
  /** The files it was last made from, so that it can be found and stopped without fetching anything. */
  readonly image: LocalImage | undefined;
  /** When, and under which intent, it was gone for good. */
  readonly gone: { readonly atMs: number; readonly fence: Fence } | undefined;
  /** Unix milliseconds until when the disks of what is gone stay. */
  readonly keptUntilMs: number | undefined;
  /** The move that it is in, or was in last. */
  readonly move: MoveStatus | undefined;
}

export interface LedgerEntry {
  readonly id: string;
  readonly intent: Intent;
  readonly progress: Progress;
}

/** The progress of a machine that was never seen before. */
export function newProgress(seq: bigint): Progress {
  return {
    seq,
    generationReached: 0n,
    restarts: 0n,
    crashes: 0n,
    crashedAtMs: [],
    halt: undefined,
    hostPorts: {},
    devices: [],
    image: undefined,
    gone: undefined,
    keptUntilMs: undefined,
    move: undefined,
  };
}

/** True for a tombstone: gone, and nothing has been wanted since. */
export function isTombstone({ intent, progress }: LedgerEntry): boolean {
  return progress.gone !== undefined && compareFences(progress.gone.fence, intent.fence) === 0;
}

const version = 1;

export function encodeIntent(id: string, { spec, ...intent }: Intent): string {
  return encode({ id, ...intent, spec: spec && toJson(MachineSpecSchema, spec) });
}

/** Throws `internal` LEDGER_DAMAGED for anything that `encodeIntent` did not write whole, for this machine. */
export function decodeIntent(id: string, text: string): Intent {
  const { id: written, spec, ...intent } = decode(text) as StoredIntent;
  if (written !== id) throw damaged("it is another machine's");
  return { ...intent, spec: spec === undefined ? undefined : fromJson(MachineSpecSchema, spec) };
}

export function encodeProgress(progress: Progress): string {
  return encode({ ...progress, move: progress.move && toJson(MoveStatusSchema, progress.move) });
}

/** Throws `internal` LEDGER_DAMAGED for anything that `encodeProgress` did not write whole. */
export function decodeProgress(text: string): Progress {
  const { move, ...progress } = decode(text) as Partial<Omit<Progress, "move">> & { readonly move?: Json };
  const told = move === undefined ? undefined : fromJson(MoveStatusSchema, move);
  return { ...newProgress(0n), ...progress, move: told };
}

type Json = Parameters<typeof fromJson>[1];

interface StoredIntent extends Omit<Intent, "spec"> {
  readonly id: string;
  readonly spec?: Json;
}

/** The fields that are written as 64-bit numbers, with a suffix; a spec's own go through protobuf, without. */
const wideNumbers = new Set(["epoch", "generation", "seq", "generationReached", "restarts", "crashes"]);

/** A line of JSON and a line with its checksum. */
function encode(record: object): string {
  const line = JSON.stringify({ version, ...record }, (_key, value: unknown) =>
    typeof value === "bigint" ? `${String(value)}n` : value,
  );
  return `${line}\n${checksum(line)}\n`;
}

function decode(text: string): object {
  const [line = "", sum] = text.split("\n");
  if (sum !== checksum(line)) throw damaged("its checksum is wrong");
  const { version: found, ...record } = JSON.parse(line, (key, value: unknown) =>
    wideNumbers.has(key) && typeof value === "string" && /^\d+n$/.test(value)
      ? BigInt(value.slice(0, -1))
      : value,
  ) as { readonly version: number };
  if (found !== version) throw damaged(`it is of version ${String(found)}`);
  return record;
}

function checksum(line: string): string {
  return createHash("sha256").update(line).digest("hex").slice(0, 16);
}

function damaged(how: string): Fault {
  return new Fault("internal", "the host's record of the machine is damaged", {
    reason: "LEDGER_DAMAGED",
    cause: new Error(how),
  });
}
