/** What belongs to no API: is the process alive, is it ready, and the documents of the APIs. */
import { z } from "zod";
import { Fault, type Json } from "#kernel/fault.ts";
import type { SigningKeys } from "../app/signing-keys.ts";
import { docsRoutes } from "./docs.ts";
import { problemSchema, problemType, toProblem } from "./faults.ts";
import { defineRoute, type Surface } from "./route.ts";

export interface ReadinessCheck {
  readonly name: string;
  /** Throws while the part it looks at is not ready. */
  check(signal: AbortSignal): Promise<void>;
}

export interface SystemOptions {
  readonly checks: readonly ReadinessCheck[];
  /** Finished OpenAPI documents by the name they are served under. */
  readonly documents: Readonly<Record<string, Json>>;
  /** Gives the public keys of access tokens. */
  readonly signingKeys: Pick<SigningKeys, "publicSet">;
}

const checkLimitMs = 5_000;
const documentSeconds = 300;

/** Makes the surface that also answers for all paths that belong to nobody. */
export function systemSurface({ checks, documents, signingKeys }: SystemOptions): Surface {
  return {
    name: "system",
    title: "Skerry system",
    prefixes: [],
    errorSchema: problemSchema,
    errorContentType: problemType,
    encodeFault: (fault, { requestId }) => toProblem(fault, requestId),
    routes: [
      defineRoute({
        method: "GET",
        path: "/healthz",
        operationId: "getHealth",
        summary: "The process is alive",
        tag: "system",
        role: "anyone",
        answers: { 200: { description: "alive", schema: z.object({ status: z.literal("alive") }) } },
        handle: async () => ({ status: 200, headers: noStore, body: { status: "alive" } }),
      }),
      defineRoute({
        method: "GET",
        path: "/readyz",
        operationId: "getReadiness",
        summary: "Requests can be served",
        tag: "system",
        role: "anyone",
        deadlineMs: () => checkLimitMs,
        answers: { 200: { description: "ready" }, 503: { description: "not ready; names the parts" } },
        handle: async ({ ctx }) => ({
          status: 200,
          headers: noStore,
          body: { status: "ready", checks: await runChecks(checks, ctx.signal) },
        }),
      }),
      defineRoute({
        method: "GET",
        path: "/.well-known/jwks.json",
        operationId: "getTokenKeys",
        summary: "Public keys of access tokens (RFC 7517)",
        tag: "system",
        role: "anyone",
        answers: { 200: { description: "the keys; a new one is here before it signs" } },
        async handle() {
          const { keys } = await signingKeys.publicSet();
          const headers = { "Cache-Control": `public, max-age=${String(documentSeconds)}` };
          return { status: 200, headers, body: { keys } };
        },
      }),
      ...docsRoutes(Object.keys(documents)),
      ...Object.entries(documents).map(([name, document]) => {
        const text = JSON.stringify(document);
        return defineRoute({
          method: "GET",
          path: `/openapi/${name}.json`,
          operationId: `getOpenapi${name}`,
          summary: `OpenAPI document of ${name}`,
          tag: "system",
          role: "anyone",
          answers: { 200: { description: "OpenAPI 3.1" } },
          handle: async () => ({
            status: 200,
            headers: {
              "Content-Type": "application/json; charset=utf-8",
              "Cache-Control": `public, max-age=${String(documentSeconds)}`,
            },
            raw: text,
          }),
        });
      }),
    ],
  };
}

const noStore = { "Cache-Control": "no-store" };

async function runChecks(checks: readonly ReadinessCheck[], signal: AbortSignal): Promise<Json> {
  const results = await Promise.allSettled(checks.map((part) => part.check(signal)));
  const states = checks.map(({ name }, i) => ({ name, ready: results[i]?.status === "fulfilled" }));
  const missing = states.filter(({ ready }) => !ready).map(({ name }) => name);
  if (missing.length === 0) return states;
  const causes = results.flatMap((result) =>
    result.status === "rejected" ? [result.reason as unknown] : [],
  );
  throw new Fault("unavailable", `not ready: ${missing.join(", ")}`, {
    reason: "NOT_READY",
    detail: { checks: states },
    cause: new AggregateError(causes),
  });
}
