/** What is wanted of a machine, changed and compared. */
import { equals } from "@bufbuild/protobuf";
import { type MachineSpec, MachineSpecSchema, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import type { Intent } from "./entry.ts";

export function withoutMove({ move: _, ...spec }: MachineSpec): MachineSpec {
  return spec;
}

/** Its plug pulled, wherever it was to go. */
export function unplugged(spec: MachineSpec): MachineSpec {
  return { ...withoutMove(spec), power: Power.OFF, stopTimeoutSeconds: 0 };
}

/** Whether two intents want the same. */
export function isSame(a: Intent, b: Intent): boolean {
  if (a.spec && b.spec) return equals(MachineSpecSchema, a.spec, b.spec);
  const sameEnd = a.keepDisksSeconds === b.keepDisksSeconds && a.adoptionEnd === b.adoptionEnd;
  return a.spec === b.spec && sameEnd;
}
