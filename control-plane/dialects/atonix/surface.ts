import type { ResourceApi } from "../../app/resource-api.ts";
import type { Surface } from "../../http/route.ts";
import { toSurface } from "../dialect.ts";
import { imageKind } from "../image.ts";
import { kindRoutes } from "../kind-routes.ts";
import { atonix } from "./dialect.ts";
import { flavorKind } from "./flavor.ts";
import { instanceKind } from "./instance.ts";
import { keyPairKind } from "./key-pair.ts";

/** The Atonix-compatible API, reference A of the contract. */
export function atonixSurface({ resources }: { readonly resources: ResourceApi }): Surface {
  const kinds = [instanceKind, flavorKind, imageKind({ path: "/compute/images", pageSize: 20 }), keyPairKind];
  return toSurface(
    atonix,
    kinds.flatMap((kind) => kindRoutes(atonix, kind, resources)),
  );
}
