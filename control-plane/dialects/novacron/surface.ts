import type { ResourceApi } from "../../app/resource-api.ts";
import type { Surface } from "../../http/route.ts";
import { toSurface } from "../dialect.ts";
import { kindRoutes } from "../kind-routes.ts";
import { auditRoutes, type AuditRoutesOptions } from "./audit-routes.ts";
import type { Login } from "../tokens.ts";
import { authRoutes } from "./auth-routes.ts";
import { novacron } from "./dialect.ts";
import { edgeRoutes, type EdgeRoutesOptions } from "./edge-routes.ts";
import { metricsRoutes, type MetricsRoutesOptions } from "./metrics-routes.ts";
import { migrationRoutes, type MigrationRoutesOptions } from "./migration-routes.ts";
import { providerRoutes, type ProviderRoutesOptions } from "./provider-routes.ts";
import { userRoutes, type UserRoutesOptions } from "./user-routes.ts";
import { vmKind } from "./vm.ts";

export interface NovacronOptions {
  readonly resources: ResourceApi;
  readonly accounts: Login;
  readonly users: UserRoutesOptions["users"];
  readonly audit: AuditRoutesOptions["audit"];
  readonly metrics: MetricsRoutesOptions["metrics"];
  readonly planner: MigrationRoutesOptions["planner"];
  readonly providers: ProviderRoutesOptions["providers"];
  readonly edge: EdgeRoutesOptions["edge"];
}

/** The NovaCron-compatible API, reference C of the contract. */
export function novacronSurface(options: NovacronOptions): Surface {
  const { resources, accounts, users, audit, metrics, planner, providers, edge } = options;
  return toSurface(novacron, [
    ...authRoutes(accounts),
    ...userRoutes({ users }),
    ...auditRoutes({ audit }),
    ...kindRoutes(novacron, vmKind, resources),
    ...migrationRoutes({ resources, planner }),
    ...metricsRoutes({ resources, metrics }),
    ...providerRoutes({ providers }),
    ...edgeRoutes({ resources, edge }),
  ]);
}
