import type { AnyDefinition } from "./definition.ts";
import { enrolmentToken } from "./enrolment-token/enrolment-token.resource.ts";
import { flavor } from "./flavor/flavor.resource.ts";
import { group } from "./group/group.resource.ts";
import { host } from "./host/host.resource.ts";
import { image } from "./image/image.resource.ts";
import { instance } from "./instance/instance.resource.ts";
import { keyPair } from "./key-pair/key-pair.resource.ts";
import { migration } from "./migration/migration.resource.ts";
import { operation } from "./operation/operation.resource.ts";
import { project } from "./project/project.resource.ts";
import { user } from "./user/user.resource.ts";
import { workload } from "./workload/workload.resource.ts";
import { price } from "./price/price.resource.ts";

/** Every kind there is; the native API, OpenAPI, SDK and command line follow this list. */
export const kinds: readonly AnyDefinition[] = [
  instance,
  migration,
  workload,
  image,
  flavor,
  keyPair,
  host,
  enrolmentToken,
  operation,
  project,
  user,
  group,
  price,
];
