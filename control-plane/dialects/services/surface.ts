import type { Surface } from "../../http/route.ts";
import { toSurface } from "../dialect.ts";
import { imageKind } from "../image.ts";
import { kindRoutes } from "../kind-routes.ts";
import { authRoutes, type AuthOptions } from "./auth.ts";
import { services } from "./dialect.ts";
import { flavorKind, gpuFlavorsRoute } from "./flavor.ts";
import { instanceKind } from "./instance.ts";
import { metricsRoute, type MetricsOptions } from "./metrics.ts";
import { optionsRoutes } from "./options.ts";

/** The Services-compatible API, reference B of the contract. */
export function servicesSurface(options: MetricsOptions & AuthOptions): Surface {
  const kinds = [instanceKind, flavorKind, imageKind({ path: "/images", pageSize: 20 })];
  const routes = [
    ...authRoutes(options),
    ...kinds.flatMap((kind) => kindRoutes(services, kind, options.resources)),
    gpuFlavorsRoute(services, options.resources),
    metricsRoute(services, options),
  ];
  return toSurface(services, [...routes, ...optionsRoutes(routes)]);
}
