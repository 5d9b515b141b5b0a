import { z } from "zod";
import type { Reply, ResourceApi } from "../../app/resource-api.ts";
import { invalidField } from "../../app/validation.ts";
import { etagOf, isUnchanged, mutationOf } from "../../http/conditional.ts";
import { integerParameter } from "../../http/parameters.ts";
import { defineRoute, type Route } from "../../http/route.ts";
import type { Resource } from "../../resources/definition.ts";
import type { Instance } from "../../resources/instance/instance.resource.ts";
import { phasesOf } from "../dialect.ts";
import { createVm, updateVm, vm, vmKind, vmPhases, vmStatuses } from "./vm.ts";

const collection = "/v1/vms";
const single = `${collection}/{vm_id}`;
const defaultLimit = 50;
const maxLimit = 1000;
const maxPage = 1_000_000;
/** Every project has this one. */
const networks = ["default"];
const { definition } = vmKind;
const shown = { schema: vm, name: "Vm" };
const created = vm.pick({ id: true, name: true, status: true, created_at: true });

const toReply =
  (status: number) =>
  (resource: Resource): Reply => ({
    status,
    headers: { ETag: etagOf(resource) },
    body: vmKind.encode(resource as Instance),
  });

export function vmRoutes(resources: ResourceApi): Route[] {
  const verbs = ["start", "stop", "restart"] as const;
  return [
    defineRoute({
      method: "GET",
      path: collection,
      operationId: "listVms",
      summary: "List VMs",
      tag: "vms",
      role: "viewer",
      query: z.strictObject({
        page: integerParameter({ min: 1, max: maxPage, default: 1, description: "page, from 1" }).optional(),
        limit: integerParameter({
          min: 1,
          max: maxLimit,
          default: defaultLimit,
          description: "VMs per page",
        }).optional(),
        provider: z.string().max(63).optional(),
        status: z.enum(vmStatuses).optional(),
      }),
      answers: {
        200: {
          description: "a page",
          schema: z.object({ vms: z.array(vm), total: z.int(), page: z.int(), limit: z.int() }),
        },
      },
      async handle({ ctx, query: { page = 1, limit = defaultLimit, provider, status } }) {
        const found = await resources.list(ctx, definition, {
          limit,
          offset: (page - 1) * limit,
          ...(status && { phases: phasesOf(vmPhases, status) }),
          ...(provider !== undefined && { filters: { provider } }),
        });
        const vms = found.items.map((item) => vmKind.encode(item as Instance));
        return { status: 200, headers: {}, body: { vms, total: found.total, page, limit } };
      },
    }),
    defineRoute({
      method: "POST",
      path: collection,
      operationId: "createVm",
      summary: "Create a VM",
      tag: "vms",
      role: "operator",
      body: createVm,
      mutates: true,
      answers: { 201: { description: "created", schema: created } },
      async handle(call) {
        const { ctx, body } = call;
        checkNetwork(body.network ?? "default");
        return resources.create(
          ctx,
          definition,
          vmKind.toCreate(body),
          mutationOf(call, (resource) => {
            const reply = toReply(201)(resource);
            return { ...reply, headers: { ...reply.headers, Location: `${collection}/${resource.id}` } };
          }),
        );
      },
    }),
    defineRoute({
      method: "GET",
      path: single,
      operationId: "getVm",
      summary: "Get a VM",
      tag: "vms",
      role: "viewer",
      answers: { 200: { description: "the VM", ...shown }, 304: { description: "unchanged" } },
      async handle(call) {
        const found = await resources.get(call.ctx, definition, call.params["vm_id"] ?? "");
        if (!isUnchanged(call, found)) return toReply(200)(found);
        return { status: 304, headers: { ETag: etagOf(found) }, body: null };
      },
    }),
    defineRoute({
      method: "PATCH",
      path: single,
      operationId: "updateVm",
      summary: "Change a VM; what cannot change while it runs waits for a restart",
      tag: "vms",
      role: "operator",
      body: updateVm,
      mutates: true,
      answers: { 200: { description: "the VM", ...shown } },
      async handle(call) {
        const id = call.params["vm_id"] ?? "";
        const options = mutationOf(call, toReply(200));
        return resources.update(call.ctx, definition, id, vmKind.toUpdate(call.body), options);
      },
    }),
    defineRoute({
      method: "DELETE",
      path: single,
      operationId: "deleteVm",
      summary: "Delete a VM",
      tag: "vms",
      role: "operator",
      mutates: true,
      answers: { 202: { description: "being deleted", ...shown } },
      async handle(call) {
        const id = call.params["vm_id"] ?? "";
        return resources.delete(call.ctx, definition, id, mutationOf(call, toReply(202)));
      },
    }),
    ...verbs.map((verb) =>
      defineRoute({
        method: "POST",
        path: `${single}/${verb}`,
        operationId: `${verb}Vm`,
        summary: definition.verbs[verb]?.summary ?? verb,
        tag: "vms",
        role: "operator",
        body: z.strictObject({}),
        mutates: true,
        answers: { 202: { description: "accepted", ...shown } },
        async handle(call) {
          const id = call.params["vm_id"] ?? "";
          return resources.invoke(call.ctx, definition, id, verb, {}, mutationOf(call, toReply(202)));
        },
      }),
    ),
  ];
}

function checkNetwork(network: string): void {
  if (!networks.includes(network)) {
    throw invalidField("network", "there is no network of that name", { known: networks });
  }
}
