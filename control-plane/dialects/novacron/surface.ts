import type { ResourceApi } from "../../app/resource-api.ts";
import type { Surface } from "../../http/route.ts";
import { auditRoutes, type AuditRoutesOptions } from "./audit-routes.ts";
import { authRoutes, type Login } from "./auth-routes.ts";
import { encodeFault, errorSchema } from "./errors.ts";
import { metricsRoutes, type MetricsRoutesOptions } from "./metrics-routes.ts";
import { migrationRoutes, type MigrationRoutesOptions } from "./migration-routes.ts";
import { providerRoutes, type ProviderRoutesOptions } from "./provider-routes.ts";
import { userRoutes, type UserRoutesOptions } from "./user-routes.ts";
import { vmRoutes } from "./vm-routes.ts";

export interface NovacronOptions {
  readonly resources: ResourceApi;
  readonly accounts: Login;
  readonly users: UserRoutesOptions["users"];
  readonly audit: AuditRoutesOptions["audit"];
  readonly metrics: MetricsRoutesOptions["metrics"];
  readonly planner: MigrationRoutesOptions["planner"];
  readonly providers: ProviderRoutesOptions["providers"];
}

const areas = ["auth", "vms", "migrations", "providers", "edge", "users", "audit", "metrics", "agents"];

/** The NovaCron-compatible API, reference C of the contract. */
export function novacronSurface({
  resources,
  accounts,
  users,
  audit,
  metrics,
  planner,
  providers,
}: NovacronOptions): Surface {
  return {
    name: "novacron",
    title: "Skerry, NovaCron-compatible",
    prefixes: areas.map((area) => `/v1/${area}`),
    errorSchema,
    errorContentType: "application/json; charset=utf-8",
    encodeFault,
    routes: [
      ...authRoutes(accounts),
      ...userRoutes({ users }),
      ...auditRoutes({ audit }),
      ...vmRoutes(resources),
      ...migrationRoutes({ resources, planner }),
      ...metricsRoutes({ resources, metrics }),
      ...providerRoutes({ providers }),
    ],
  };
}
