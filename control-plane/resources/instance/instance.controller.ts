import type { Controller } from "../../engine/controller.ts";
import { deriveMigration } from "../migration/migration.derive.ts";
import type { Migration } from "../migration/migration.resource.ts";
import { instanceActions } from "./instance.actions.ts";
import { decideInstance, deriveInstanceObserved } from "./instance.decide.ts";
import { instanceOperations } from "./instance.operations.ts";
import type { Instance } from "./instance.resource.ts";

export const instanceController: Controller<Instance> = {
  kind: "instance",
  decide: decideInstance,
  actions: instanceActions,
  operations: instanceOperations,
  deriveObserved: deriveInstanceObserved,
  deriveRequest: (request, incarnations) => deriveMigration(request as Migration, incarnations),
};
