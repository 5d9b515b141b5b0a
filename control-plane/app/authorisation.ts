/**
 * The one rule for who may do what. Routes and kinds say what they take as an {@link Access}; every way in
 * (HTTP, server-sent events, WebSocket, console) and the resource service ask here. What somebody may see
 * at all is the queries' matter: other projects' things do not exist.
 */
import { roles, type Ctx, type Principal } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import type { Access } from "../resources/definition.ts";

export const rootProject = "root";

/** An administrator of the root project: the cloud's own. */
export function isCloudAdmin({ project, role }: Principal): boolean {
  return project === rootProject && role === "admin";
}

/** What a request does. A key that only reads may do nothing that changes anything, whatever its owner may. */
export type Effect = "read" | "change";

/**
 * Lets the principal through or throws `denied`.
 * @param needed what it takes; undefined: nobody may
 */
export function authorise(
  principal: Principal,
  needed: Access | undefined,
  action: string,
  effect: Effect,
): void {
  if (needed === undefined) {
    throw new Fault("denied", `${action} is not offered`, { reason: "NOT_OFFERED" });
  }
  if (effect === "change" && principal.readOnly) {
    throw new Fault("denied", `${action} takes a key that may change things`, { reason: "READ_ONLY_KEY" });
  }
  if (needed === "cloud-admin" ? isCloudAdmin(principal) : hasRole(principal, needed)) return;
  const { project, role } = principal;
  const what = needed === "cloud-admin" ? "an administrator of the cloud" : `the role ${needed}`;
  throw new Fault("denied", `${action} takes ${what}`, {
    reason: "ROLE_TOO_LOW",
    detail: { needed, role, project },
  });
}

/** Whether the principal's role is `needed` or a higher one. */
export function hasRole({ role }: Pick<Principal, "role">, needed: Principal["role"]): boolean {
  return roles.indexOf(role) >= roles.indexOf(needed);
}

/** Another project than the caller's does not exist, but for the cloud's administrators. */
export function requireProject({ principal }: Pick<Ctx, "principal">, project: string): void {
  if (principal.project === project || isCloudAdmin(principal)) return;
  throw new Fault("notFound", `there is no project with the id ${project.slice(0, 80)}`, {
    reason: "PROJECT_NOT_FOUND",
  });
}
