/** Asking for an instance that is a machine which a host had before. */
import { z } from "zod";
import type { Adoption } from "../app/adoption.ts";
import type { ResourceApi } from "../app/resource-api.ts";
import { instance } from "../resources/instance/instance.resource.ts";
import { etagOf, mutationOf } from "./conditional.ts";
import { labelsSchema, nameSchema, resourceSchema, toNative } from "./native-json.ts";
import { waitDeadlineMs, waitQuery } from "./native-kind.ts";
import { settled } from "./native-writes.ts";
import { defineRoute, type Route } from "./route.ts";

export interface AdoptionRoutesOptions {
  readonly resources: ResourceApi;
  readonly adoption: Pick<Adoption, "adopt">;
}

const base = "/skerry/v1";

/** POST /hosts/{id}/adopt; what there is to adopt is in the host's status. */
export function adoptionRoutes({ resources, adoption }: AdoptionRoutesOptions): Route[] {
  return [
    defineRoute({
      method: "POST",
      path: `${base}/hosts/{id}/adopt`,
      operationId: "adoptMachine",
      summary: "Make an instance of a machine that the host had before, without stopping it",
      tag: "hosts",
      role: "cloud-admin",
      query: waitQuery,
      deadlineMs: waitDeadlineMs,
      body: z.strictObject({
        machine: z.string().min(1).max(255).describe("name or uuid of one of the host's foreign machines"),
        name: nameSchema.optional().describe("the instance's; default: the machine's own"),
        labels: labelsSchema.optional(),
      }),
      mutates: true,
      answers: {
        201: { description: "it is being taken over", schema: resourceSchema(instance), name: "Instance" },
      },
      async handle(call) {
        const options = mutationOf(call, (r) => ({
          status: 201,
          headers: { ETag: etagOf(r), Location: `${base}/instances/${r.id}` },
          body: toNative(r),
        }));
        const begun = await adoption.adopt(call.ctx, call.params["id"] ?? "", call.body, options);
        return settled(begun, call, instance, resources);
      },
    }),
  ];
}
