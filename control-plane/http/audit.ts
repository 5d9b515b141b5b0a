/** The native API's view of the audit log. */
import { z } from "zod";
import type { AuditChain } from "../app/audit-chain.ts";
import { integerParameter } from "./parameters.ts";
import { defineRoute, type Route } from "./route.ts";

const defaultLimit = 10_000;
const maxLimit = 100_000;

const verdict = z.object({
  project: z.string(),
  intact: z.boolean().describe("so far, when there is a next page"),
  events: z.int().describe("the last place that was gone over"),
  broken_at: z.int().nullable().describe("the first place that does not hold"),
  hash: z.string(),
  signed_by: z.string().nullable(),
  gap: z
    .object({ events: z.int(), until: z.iso.datetime() })
    .nullable()
    .describe("what was taken out because it was old"),
  next: z.string().nullable().describe("the `from` of the next page"),
});

/** The route, to be given to `nativeSurface`. */
export function auditVerificationRoute(chain: Pick<AuditChain, "verify">): Route {
  return defineRoute({
    method: "GET",
    path: "/skerry/v1/audit/verify",
    operationId: "verifyAudit",
    summary: "Go over the project's audit log: whether each event is in its place and the end is signed",
    tag: "audit",
    role: "admin",
    query: z.strictObject({
      from: z.string().max(96).optional().meta({ description: "`next` of the page before" }),
      limit: integerParameter({
        min: 1,
        max: maxLimit,
        default: defaultLimit,
        description: "events on a page",
      }).optional(),
    }),
    answers: { 200: { description: "the verdict", schema: verdict } },
    async handle({ ctx, query: { from, limit = defaultLimit } }) {
      return { status: 200, headers: {}, body: { ...(await chain.verify(ctx, { from, limit })) } };
    },
  });
}
