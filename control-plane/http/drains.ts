/** What is still on a host that is to be emptied. */
import { z } from "zod";
import type { Drains } from "../app/drains.ts";
import { defineRoute, type Route } from "./route.ts";

const remaining = z.object({
  machines: z.array(
    z.object({
      id: z.string(),
      name: z.string(),
      phase: z.string(),
      state: z.enum(["waiting", "moving", "stuck"]),
      migration: z.string().nullable().describe("its newest"),
      error: z
        .object({ reason: z.string(), message: z.string() })
        .nullable()
        .describe("why it could not move when that was tried last; it is tried again"),
    }),
  ),
});

/** GET /hosts/{id}/remaining. */
export function drainRoutes(drains: Pick<Drains, "remaining">): Route[] {
  return [
    defineRoute({
      method: "GET",
      path: "/skerry/v1/hosts/{id}/remaining",
      operationId: "listRemaining",
      summary:
        "The machines that are still on the host, how far their moves are, and what could not move and why",
      tag: "hosts",
      role: "cloud-admin",
      answers: { 200: { description: "what is left", schema: remaining } },
      async handle({ ctx, params }) {
        const machines = await drains.remaining(ctx, params["id"] ?? "");
        return { status: 200, headers: {}, body: { machines: machines.map((machine) => ({ ...machine })) } };
      },
    }),
  ];
}
