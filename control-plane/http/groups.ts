/** Native routes of who is in a group: what its kind cannot say. */
import { z } from "zod";
import type { Groups } from "../app/groups.ts";
import { listSchema } from "./native-json.ts";
import { defineRoute, type Route } from "./route.ts";

const path = "/skerry/v1/groups/{id}/members";
const done = { status: 204, headers: {}, body: null };
const common = { tag: "groups", role: "admin" } as const;

/** The routes, to be given to `nativeSurface`. */
export function groupRoutes(groups: Groups): Route[] {
  const member = z.object({ user_id: z.string(), username: z.string() });
  return [
    defineRoute({
      ...common,
      method: "GET",
      path,
      operationId: "listGroupMembers",
      summary: "Who is in a group",
      answers: { 200: { description: "all of them", schema: listSchema(member) } },
      async handle({ ctx, params }) {
        const members = await groups.listMembers(ctx, params["id"] ?? "");
        const items = members.map((each) => ({ ...each }));
        return { status: 200, headers: {}, body: { items, total: items.length, next_cursor: null } };
      },
    }),
    defineRoute({
      ...common,
      method: "PUT",
      path: `${path}/{user_id}`,
      operationId: "addGroupMember",
      summary: "Put a user into a group",
      answers: { 204: { description: "is in it" } },
      async handle({ ctx, params }) {
        await groups.add(ctx, params["id"] ?? "", params["user_id"] ?? "");
        return done;
      },
    }),
    defineRoute({
      ...common,
      method: "DELETE",
      path: `${path}/{user_id}`,
      operationId: "removeGroupMember",
      summary: "Take a user out of a group",
      answers: { 204: { description: "is in it no more" } },
      async handle({ ctx, params }) {
        await groups.remove(ctx, params["id"] ?? "", params["user_id"] ?? "");
        return done;
      },
    }),
  ];
}
