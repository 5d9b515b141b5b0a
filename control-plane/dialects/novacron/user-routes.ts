/** Users and roles in NovaCron's words. Roles are those in the caller's project. */
import { z } from "zod";
import { roles } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import { roleNamed, type Users, type UserWithRole } from "../../app/users.ts";
import { invalidField } from "../../app/validation.ts";
import { idempotencyOf } from "../../http/conditional.ts";
import { integerParameter } from "../../http/parameters.ts";
import { defineRoute, type Route } from "../../http/route.ts";
import { inWordsOf } from "../words.ts";

export interface UserRoutesOptions {
  readonly users: Users;
}

const collection = "/v1/users";
const defaultLimit = 50;
const maxLimit = 1000;
const maxPage = 1_000_000;
const secret = { "Cache-Control": "no-store" };

const wireUser = z.object({
  id: z.string(),
  username: z.string(),
  email: z.string().nullable(),
  roles: z.array(z.enum(roles)),
  mfa_enabled: z.boolean(),
  status: z.enum(["active", "disabled"]),
  created_at: z.iso.datetime(),
  updated_at: z.iso.datetime(),
});
const assignedFactor = z
  .object({ secret: z.string(), otpauth_url: z.string(), recovery_codes: z.array(z.string()) })
  .describe("the second factor, shown this once");
const words = { fields: {}, idName: "user_id", noun: "User" } as const;
const shown = { schema: wireUser, name: "User" };

const exampleUser = {
  id: "usr-1m7zk3q9x4v8c2b6n5d0",
  username: "newuser",
  email: "newuser@example.com",
  roles: ["operator"],
  mfa_enabled: false,
  status: "active",
  created_at: "2026-01-15T10:30:00Z",
  updated_at: "2026-01-15T10:30:00Z",
};

const encode = ({ user, role }: UserWithRole) => ({
  id: user.id,
  username: user.name,
  email: user.desired.email,
  roles: role ? [role] : [],
  mfa_enabled: user.observed?.mfa_enabled ?? false,
  status: user.phase,
  created_at: user.createdAt.toISOString(),
  updated_at: user.updatedAt.toISOString(),
});

function roleOf(names: readonly string[], field: string) {
  const named = names.map((name) => {
    const role = roleNamed(name);
    if (role) return role;
    throw invalidField(field, "there is no role of that name", {
      known: roles.map((each) => `role-${each}`),
    });
  });
  // The highest holds the others.
  return roles.findLast((role) => named.includes(role)) ?? "viewer";
}

export function userRoutes({ users }: UserRoutesOptions): Route[] {
  return [
    defineRoute({
      method: "GET",
      path: collection,
      operationId: "listUsers",
      summary: "List users",
      tag: "users",
      role: "admin",
      query: z.strictObject({
        page: integerParameter({ min: 1, max: maxPage, default: 1, description: "page, from 1" }).optional(),
        limit: integerParameter({
          min: 1,
          max: maxLimit,
          default: defaultLimit,
          description: "users per page",
        }).optional(),
      }),
      answers: {
        200: {
          description: "a page",
          schema: z.object({ users: z.array(wireUser), total: z.int(), page: z.int(), limit: z.int() }),
        },
      },
      examples: { answers: { 200: { users: [exampleUser], total: 1, page: 1, limit: defaultLimit } } },
      async handle({ ctx, query: { page = 1, limit = defaultLimit } }) {
        const { items, total } = await users.list(ctx, { limit, offset: (page - 1) * limit });
        return { status: 200, headers: {}, body: { users: items.map(encode), total, page, limit } };
      },
    }),
    defineRoute({
      method: "POST",
      path: collection,
      operationId: "createUser",
      summary: "Create a user of the caller's project",
      tag: "users",
      role: "admin",
      body: z.strictObject({
        username: z.string().min(1).max(255),
        email: z.email().max(254).nullish(),
        roles: z.array(z.string().max(64)).max(10).optional(),
        mfa_enabled: z.boolean().optional(),
        password: z.string().max(1024).optional().describe("default: a random one, shown this once"),
      }),
      answers: {
        201: {
          description: "the user, and the password when it was generated",
          schema: wireUser.extend({ password: z.string().optional(), mfa: assignedFactor.optional() }),
        },
      },
      examples: {
        body: { username: "newuser", email: "newuser@example.com", roles: ["operator"], mfa_enabled: false },
        answers: { 201: { ...exampleUser, password: "generated-and-shown-once" } },
      },
      mutates: true,
      handle: (call) => {
        const { ctx, body } = call;
        const wish = {
          username: body.username,
          spec: { email: body.email ?? null },
          role: roleOf(body.roles ?? [], "roles"),
          password: body.password,
          mfa: body.mfa_enabled,
        };
        return users.create(ctx, wish, {
          idempotency: idempotencyOf(call),
          respond: (made, secrets) => ({
            status: 201,
            headers: { ...secret, Location: `${collection}/${made.user.id}` },
            body: { ...encode(made), ...secrets },
          }),
        });
      },
    }),
    defineRoute({
      method: "GET",
      path: `${collection}/{user_id}`,
      operationId: "getUser",
      summary: "Get a user",
      tag: "users",
      role: "admin",
      answers: { 200: { description: "the user", ...shown } },
      examples: { answers: { 200: exampleUser } },
      handle: inWordsOf(words, async ({ ctx, params }) => {
        return { status: 200, headers: {}, body: encode(await users.get(ctx, params["user_id"] ?? "")) };
      }),
    }),
    defineRoute({
      method: "POST",
      path: `${collection}/{user_id}/roles`,
      operationId: "assignRole",
      summary: "Assign a role in the caller's project, in the place of the one before",
      tag: "users",
      role: "admin",
      body: z.strictObject({ role_id: z.string().max(64) }),
      answers: { 200: { description: "the user", ...shown } },
      examples: { body: { role_id: "role-operator" }, answers: { 200: exampleUser } },
      handle: inWordsOf(words, async ({ ctx, params, body }) => {
        const { user } = await users.get(ctx, params["user_id"] ?? "");
        if (user.phase === "disabled") {
          throw new Fault("conflict", "the user is disabled", { reason: "USER_DISABLED" });
        }
        await users.setRole(ctx, ctx.principal.project, user.id, roleOf([body.role_id], "role_id"));
        return { status: 200, headers: {}, body: encode(await users.get(ctx, user.id)) };
      }),
    }),
  ];
}
