/** The public APIs with nothing behind them: enough for all that derives from their routes. */
import { atonixSurface } from "#cp/dialects/atonix/surface.ts";
import { novacronSurface } from "#cp/dialects/novacron/surface.ts";
import { servicesSurface } from "#cp/dialects/services/surface.ts";
import { consoleRoutes } from "#cp/http/console.ts";
import { directoryRoutes } from "#cp/http/directory.ts";
import { extraRoutes } from "#cp/http/extras.ts";
import { nativeSurface } from "#cp/http/native.ts";
import type { Surface } from "#cp/http/route.ts";
import { workloadRoutes } from "#cp/http/workloads.ts";
import { kinds } from "#cp/resources/kinds.ts";

/** Never called, whatever is taken out of it. */
const nothing: never = new Proxy({}, { get: () => nothing }) as never;

export const native: Surface = nativeSurface({
  kinds,
  resources: nothing,
  extras: [
    ...extraRoutes(nothing),
    ...directoryRoutes(nothing),
    ...consoleRoutes(nothing),
    ...workloadRoutes(nothing),
  ],
});

export const novacron: Surface = novacronSurface(nothing);

/** Those that other products' clients know. */
export const dialects: readonly Surface[] = [novacron, atonixSurface(nothing), servicesSurface(nothing)];
