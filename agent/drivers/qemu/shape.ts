/**
 * How a machine's QEMU was built: what a second QEMU must be started with to take its state. It is decided at the start
 * from the plan, which may have grown since, and travels between hosts as text that only this driver reads.
 */
import { Fault } from "#kernel/fault.ts";

export interface GuestShape {
  readonly machineType: string;
  readonly cpuModel: string;
  readonly vcpus: number;
  readonly maxVcpus: number;
  /** Of a disk: as many as there were vCPUs at its start, whatever was plugged in since. */
  readonly queues: number;
  readonly memoryBytes: bigint;
  /** Most that can be plugged in on top. */
  readonly hotMemoryBytes: bigint;
}

/** The shape as text. */
export function encodeShape(shape: GuestShape): string {
  return JSON.stringify(shape, (_key, value: unknown) => (typeof value === "bigint" ? Number(value) : value));
}

/** The shape of `encodeShape`'s text; undefined for none. Throws `conflict` MOVE_BLOCKED for what is no shape. */
export function parseShape(text: string): GuestShape | undefined {
  if (text === "") return undefined;
  const value = parse(text);
  const { machineType, cpuModel } = value;
  if (!isName(machineType) || !isName(cpuModel)) throw unreadable(text);
  const count = (name: string): number => {
    const number = value[name];
    if (typeof number === "number" && Number.isSafeInteger(number) && number >= 0) return number;
    throw unreadable(text);
  };
  return {
    machineType,
    cpuModel,
    vcpus: count("vcpus"),
    maxVcpus: count("maxVcpus"),
    queues: count("queues"),
    memoryBytes: BigInt(count("memoryBytes")),
    hotMemoryBytes: BigInt(count("hotMemoryBytes")),
  };
}

function parse(text: string): Readonly<Record<string, unknown>> {
  try {
    return { ...(JSON.parse(text) as object) };
  } catch (cause) {
    throw unreadable(text, cause);
  }
}

/** It becomes part of an argument, so it must not mean more than itself. */
function isName(value: unknown): value is string {
  return typeof value === "string" && /^[\w.-]+$/.test(value);
}

function unreadable(text: string, cause: unknown = new Error(text)): Fault {
  return new Fault("conflict", "the machine was started by something that this host does not know", {
    reason: "MOVE_BLOCKED",
    detail: { blocker: "guest_shape" },
    cause,
  });
}
