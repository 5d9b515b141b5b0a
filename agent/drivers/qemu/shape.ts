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
  const sizes = [value["vcpus"], value["maxVcpus"], value["memoryBytes"], value["hotMemoryBytes"]];
  const { machineType, cpuModel } = value;
  const [vcpus, maxVcpus, memoryBytes, hotMemoryBytes] = sizes.map(Number) as [
    number,
    number,
    number,
    number,
  ];
  const whole = sizes.every((size) => typeof size === "number" && Number.isSafeInteger(size) && size >= 0);
  if (!whole || !isName(machineType) || !isName(cpuModel)) throw unreadable(text);
  return {
    machineType,
    cpuModel,
    vcpus,
    maxVcpus,
    memoryBytes: BigInt(memoryBytes),
    hotMemoryBytes: BigInt(hotMemoryBytes),
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
