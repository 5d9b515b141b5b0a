/** The public APIs with nothing behind them: enough for all that derives from their routes. */
import { atonixSurface } from "#cp/dialects/atonix/surface.ts";
import { novacronSurface } from "#cp/dialects/novacron/surface.ts";
import { servicesSurface } from "#cp/dialects/services/surface.ts";
import { consoleRoutes } from "#cp/http/console.ts";
import { directoryRoutes } from "#cp/http/directory.ts";
import { extraRoutes, type ExtrasOptions } from "#cp/http/extras.ts";
import { nativeSurface } from "#cp/http/native.ts";
import type { Surface } from "#cp/http/route.ts";
import { kinds } from "#cp/resources/kinds.ts";

/** Never called. */
const nothing = new Proxy({}, {}) as never;
const resources: ExtrasOptions["resources"] = nothing;

export const native: Surface = nativeSurface({
  kinds,
  resources,
  extras: [
    ...extraRoutes({
      version: "1",
      resources,
      metrics: nothing,
      placements: nothing,
      imageContent: nothing,
      enrolmentTokens: nothing,
      issueOperatorCertificate: nothing,
    }),
    ...directoryRoutes({
      users: nothing,
      apiKeys: nothing,
      secondFactor: nothing,
      signingKeys: nothing,
      quotas: nothing,
    }),
    ...consoleRoutes({ resources, agents: nothing, locate: nothing }),
  ],
});

export const novacron: Surface = novacronSurface({
  resources,
  accounts: nothing,
  users: nothing,
  audit: nothing,
  metrics: nothing,
  planner: nothing,
  providers: nothing,
});

/** Those that other products' clients know. */
export const dialects: readonly Surface[] = [
  novacron,
  atonixSurface({ resources }),
  servicesSurface({ resources, metrics: nothing, accounts: nothing, authenticator: nothing }),
];
