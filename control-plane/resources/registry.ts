import { Fault } from "#kernel/fault.ts";
import type { AnyController } from "../engine/controller.ts";
import type { KindRegistry } from "../engine/observe.ts";
import { kinds } from "./kinds.ts";

/** All kinds with the controllers given; a controller of an unknown kind is a bug. */
export function createRegistry(controllers: readonly AnyController[]): KindRegistry {
  const definitions = new Map(kinds.map((kind) => [kind.kind, kind]));
  const byKind = new Map(controllers.map((controller) => [controller.kind, controller]));
  const definition = (kind: string) => {
    const found = definitions.get(kind);
    if (!found) throw new Fault("internal", `there is no kind ${kind}`);
    return found;
  };
  for (const { kind } of controllers) definition(kind);
  return { definition, controller: (kind) => byKind.get(kind) };
}
