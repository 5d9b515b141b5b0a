/** The native API's view of the audit log. */
import { z } from "zod";
import type { AuditLog } from "../app/audit.ts";
import { defineRoute, type Route } from "./route.ts";

const verdict = z.object({
  project: z.string(),
  intact: z.boolean(),
  events: z.int(),
  broken_at: z.int().nullable().describe("the first place that does not hold"),
  hash: z.string(),
  signed_by: z.string().nullable(),
});

/** The route, to be given to `nativeSurface`. */
export function auditVerificationRoute(audit: Pick<AuditLog, "verify">): Route {
  return defineRoute({
    method: "GET",
    path: "/skerry/v1/audit/verify",
    operationId: "verifyAudit",
    summary: "Go over the project's audit log: whether each event is in its place and the end is signed",
    tag: "audit",
    role: "admin",
    answers: { 200: { description: "the verdict", schema: verdict } },
    handle: async ({ ctx }) => ({ status: 200, headers: {}, body: { ...(await audit.verify(ctx)) } }),
  });
}
