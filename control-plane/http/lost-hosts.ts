/** Declaring a host lost. */
import { z } from "zod";
import type { LostHosts } from "../app/lost-hosts.ts";
import { host } from "../resources/host/host.resource.ts";
import { resourceSchema } from "./native-json.ts";
import { reply } from "./native-kind.ts";
import { defineRoute, type Route } from "./route.ts";

/** POST /hosts/{id}/declare-lost. */
export function lostHostRoutes(hosts: Pick<LostHosts, "declare">): Route[] {
  return [
    defineRoute({
      method: "POST",
      path: "/skerry/v1/hosts/{id}/declare-lost",
      operationId: "declareHostLost",
      summary:
        "Say that a silent host is dead for certain: its machines of `restart_elsewhere` start on other hosts at once, and " +
        "what is left of them there is removed when it is back. If it is not dead they run twice until then",
      tag: "hosts",
      role: "cloud-admin",
      body: z.strictObject({ certain: z.literal(true).describe("that it is dead, or its power is off") }),
      answers: { 200: { description: "it is lost", schema: resourceSchema(host), name: "Host" } },
      handle: async ({ ctx, params }) => reply(200, await hosts.declare(ctx, params["id"] ?? "")),
    }),
  ];
}
