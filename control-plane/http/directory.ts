/** Native routes of users, members of projects and API keys: what their kinds cannot say. */
import { z } from "zod";
import { roles } from "#kernel/ctx.ts";
import type { Json } from "#kernel/fault.ts";
import type { ApiKeys } from "../app/api-keys.ts";
import type { Quotas } from "../app/quota.ts";
import type { SecondFactor } from "../app/second-factor.ts";
import type { SigningKeys } from "../app/signing-keys.ts";
import type { Users } from "../app/users.ts";
import { user } from "../resources/user/user.resource.ts";
import { idempotencyOf } from "./conditional.ts";
import { listSchema, nameSchema, resourceSchema, toNative } from "./native-json.ts";
import type { Reply } from "../app/resource-api.ts";
import { defineRoute, type Route } from "./route.ts";

export interface DirectoryOptions {
  readonly users: Users;
  readonly secondFactor: SecondFactor;
  readonly signingKeys: Pick<SigningKeys, "rotate">;
  readonly quotas: Quotas;
  readonly apiKeys: ApiKeys;
}

const base = "/skerry/v1";
const secret = { "Cache-Control": "no-store" };
const password = z.string().min(1).max(1024);
const role = z.enum(roles);
const done: Reply = { status: 204, headers: {}, body: null };

const listOf = (items: readonly { readonly [field: string]: Json }[]): Reply => ({
  status: 200,
  headers: {},
  body: { items, total: items.length, next_cursor: null },
});

/** The routes, to be given to `nativeSurface`. */
export function directoryRoutes({
  users,
  apiKeys,
  secondFactor,
  signingKeys,
  quotas,
}: DirectoryOptions): Route[] {
  return [
    ...userRoutes(users),
    ...memberRoutes(users),
    ...factorRoutes({ users, secondFactor }),
    quotaRoute(quotas),
    rotateRoute(signingKeys),
    ...keyRoutes(apiKeys, "the caller's", `${base}/api-keys`, "", "viewer", (ctx) =>
      Promise.resolve(ctx.principal.id),
    ),
    ...keyRoutes(
      apiKeys,
      "a service account's",
      `${base}/users/{id}/api-keys`,
      "ServiceAccount",
      "admin",
      (ctx, id) => users.keyOwner(ctx, id),
    ),
  ];
}

function userRoutes(users: Users): Route[] {
  const body = z.strictObject({
    name: nameSchema,
    spec: z.record(z.string(), z.unknown()).default({}),
    role: role.default("viewer").describe("in the caller's project"),
    password: password.optional().describe("default: a random one, shown this once"),
  });
  return [
    defineRoute({
      method: "POST",
      path: `${base}/users`,
      operationId: "createUser",
      summary: "Create a user of the caller's project",
      tag: "users",
      role: "admin",
      body,
      bodyDoc: body.extend({ spec: user.spec.optional() }),
      answers: {
        201: {
          description: "the user, and the password when it was generated",
          schema: resourceSchema(user).extend({ password: z.string().optional() }),
        },
      },
      mutates: true,
      handle: (call) => {
        const { name, spec, role: given, password: chosen } = call.body;
        const wish = { username: name, spec, role: given, password: chosen };
        return users.create(call.ctx, wish, {
          idempotency: idempotencyOf(call),
          respond: (made, secrets) => ({
            status: 201,
            headers: secret,
            body: { ...toNative(made.user), ...secrets },
          }),
        });
      },
    }),
    defineRoute({
      method: "PUT",
      path: `${base}/users/{id}/password`,
      operationId: "setUserPassword",
      summary: "Set a user's password; all logins of theirs end",
      tag: "users",
      role: "admin",
      body: z.strictObject({ password }),
      answers: { 204: { description: "set" } },
      async handle({ ctx, params, body: { password: chosen } }) {
        const { user: found } = await users.get(ctx, params["id"] ?? "");
        await users.setPassword(ctx, found.id, { password: chosen });
        return done;
      },
    }),
    defineRoute({
      method: "PUT",
      path: `${base}/password`,
      operationId: "setOwnPassword",
      summary: "Set one's own password; all one's logins end",
      tag: "identity",
      role: "viewer",
      body: z.strictObject({ current: password, password }),
      answers: { 204: { description: "set" } },
      async handle({ ctx, body }) {
        await users.setPassword(ctx, ctx.principal.id, body);
        return done;
      },
    }),
  ];
}

function memberRoutes(users: Users): Route[] {
  const member = z.object({
    user_id: z.string(),
    username: z.string(),
    project: z.string(),
    role,
    group: z
      .object({ id: z.string(), name: z.string() })
      .nullable()
      .describe("where the role comes from; null: the user has it in person"),
  });
  const path = `${base}/projects/{id}/members`;
  return [
    defineRoute({
      method: "GET",
      path,
      operationId: "listMembers",
      summary: "Who is what in a project",
      tag: "projects",
      role: "admin",
      answers: { 200: { description: "all of them", schema: listSchema(member) } },
      async handle({ ctx, params }) {
        const members = await users.listMembers(ctx, params["id"] ?? "");
        return listOf(members.map(({ accountId, ...rest }) => ({ user_id: accountId, ...rest })));
      },
    }),
    defineRoute({
      method: "PUT",
      path: `${path}/{user_id}`,
      operationId: "setMember",
      summary: "Give a user a role in a project",
      tag: "projects",
      role: "admin",
      body: z.strictObject({ role }),
      answers: { 204: { description: "given" } },
      async handle({ ctx, params, body }) {
        await users.setRole(ctx, params["id"] ?? "", params["user_id"] ?? "", body.role);
        return done;
      },
    }),
    defineRoute({
      method: "DELETE",
      path: `${path}/{user_id}`,
      operationId: "removeMember",
      summary: "Take a user's role in a project away",
      tag: "projects",
      role: "admin",
      answers: { 204: { description: "taken away" } },
      async handle({ ctx, params }) {
        await users.setRole(ctx, params["id"] ?? "", params["user_id"] ?? "", undefined);
        return done;
      },
    }),
  ];
}

const keyInfo = z.object({
  id: z.string(),
  name: z.string(),
  project: z.string(),
  role,
  read_only: z.boolean(),
  created_at: z.iso.datetime(),
  last_used_at: z.iso.datetime().nullable(),
  expires_at: z.iso.datetime().nullable(),
});
const maxKeySeconds = 10 * 366 * 86_400;

/** The same three routes for one's own keys and for those of service accounts. */
function keyRoutes(
  apiKeys: ApiKeys,
  whose: string,
  path: string,
  prefix: string,
  access: "viewer" | "admin",
  ownerOf: (ctx: Parameters<Route["handle"]>[0]["ctx"], id: string) => Promise<string>,
): Route[] {
  const common = { tag: prefix === "" ? "identity" : "users", role: access };
  return [
    defineRoute({
      ...common,
      method: "GET",
      path,
      operationId: `list${prefix}ApiKeys`,
      summary: `List ${whose} API keys`,
      answers: { 200: { description: "all of them", schema: listSchema(keyInfo) } },
      handle: async ({ ctx, params }) => listOf(await apiKeys.list(await ownerOf(ctx, params["id"] ?? ""))),
    }),
    defineRoute({
      ...common,
      method: "POST",
      path,
      operationId: `create${prefix}ApiKey`,
      summary: `Make an API key, ${whose}; the key itself is shown this once`,
      body: z.strictObject({
        name: nameSchema,
        role: role.optional().describe("most that it may; default: the caller's"),
        read_only: z.boolean().optional().describe("it changes nothing"),
        expires_in_seconds: z.int().min(60).max(maxKeySeconds).optional(),
      }),
      answers: { 201: { description: "the key", schema: keyInfo.extend({ api_key: z.string() }) } },
      mutates: true,
      async handle(call) {
        const { ctx, params, body } = call;
        const owner = await ownerOf(ctx, params["id"] ?? "");
        const wish = {
          name: body.name,
          role: body.role,
          readOnly: body.read_only,
          expiresInSeconds: body.expires_in_seconds,
        };
        return apiKeys.create(ctx, wish, {
          owner,
          idempotency: idempotencyOf(call),
          respond: (key) => ({ status: 201, headers: secret, body: { ...key } }),
        });
      },
    }),
    defineRoute({
      ...common,
      method: "DELETE",
      path: `${path}/{key_id}`,
      operationId: `delete${prefix}ApiKey`,
      summary: "Revoke an API key",
      answers: { 204: { description: "revoked" } },
      async handle({ ctx, params }) {
        await apiKeys.delete(ctx, await ownerOf(ctx, params["id"] ?? ""), params["key_id"] ?? "");
        return done;
      },
    }),
  ];
}

function factorRoutes({ users, secondFactor }: Pick<DirectoryOptions, "users" | "secondFactor">): Route[] {
  const code = z.string().min(1).max(64);
  const path = `${base}/mfa`;
  return [
    defineRoute({
      method: "POST",
      path,
      operationId: "beginMfa",
      summary: "Begin a second factor of one's own: shows the secret for an authenticator app",
      tag: "identity",
      role: "viewer",
      answers: {
        201: {
          description: "the secret; it counts once a code of it was given",
          schema: z.object({ secret: z.string(), otpauth_url: z.string() }),
        },
      },
      handle: async ({ ctx }) => ({
        status: 201,
        headers: secret,
        body: { ...(await secondFactor.begin(ctx)) },
      }),
    }),
    defineRoute({
      method: "POST",
      path: `${path}/confirm`,
      operationId: "confirmMfa",
      summary: "Show that the authenticator app has it: from now on a login takes a code",
      tag: "identity",
      role: "viewer",
      body: z.strictObject({ code }),
      answers: {
        200: {
          description: "codes for whoever loses the device, each good once",
          schema: z.object({ recovery_codes: z.array(z.string()) }),
        },
      },
      handle: async ({ ctx, body }) => ({
        status: 200,
        headers: secret,
        body: { recovery_codes: await secondFactor.confirm(ctx, body.code) },
      }),
    }),
    defineRoute({
      method: "DELETE",
      path,
      operationId: "removeMfa",
      summary: "Take one's own second factor away",
      tag: "identity",
      role: "viewer",
      body: z.strictObject({ code }),
      answers: { 204: { description: "taken away" } },
      async handle({ ctx, body }) {
        await users.removeOwnFactor(ctx, body.code);
        return done;
      },
    }),
    defineRoute({
      method: "DELETE",
      path: `${base}/users/{id}/mfa`,
      operationId: "resetMfa",
      summary: "Take away the second factor of a user who has lost it",
      tag: "users",
      role: "admin",
      answers: { 204: { description: "taken away" } },
      async handle({ ctx, params }) {
        await users.resetFactor(ctx, params["id"] ?? "");
        return done;
      },
    }),
  ];
}

function quotaRoute(quotas: Quotas): Route {
  const line = z.object({ name: z.string(), used: z.int(), limit: z.int().nullable() });
  return defineRoute({
    method: "GET",
    path: `${base}/projects/{id}/quota`,
    operationId: "getQuota",
    summary: "What a project has, and may have",
    tag: "projects",
    role: "viewer",
    answers: { 200: { description: "each by name", schema: listSchema(line) } },
    async handle({ ctx, params }) {
      const lines = await quotas.list(ctx, params["id"] ?? "");
      return listOf(lines.map((each) => ({ ...each })));
    },
  });
}

function rotateRoute(signingKeys: DirectoryOptions["signingKeys"]): Route {
  return defineRoute({
    method: "POST",
    path: `${base}/token-keys/rotate`,
    operationId: "rotateTokenKeys",
    summary: "Announce a new key for access tokens; it signs some minutes later",
    tag: "identity",
    role: "cloud-admin",
    answers: { 204: { description: "announced" } },
    async handle() {
      await signingKeys.rotate({ now: true });
      return done;
    },
  });
}
