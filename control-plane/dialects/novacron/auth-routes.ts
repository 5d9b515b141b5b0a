import { z } from "zod";
import type { Ctx } from "#kernel/ctx.ts";
import type { Credentials } from "../../app/accounts.ts";
import { defineRoute, type Route } from "../../http/route.ts";

export interface Login {
  login(credentials: Credentials): Promise<z.infer<typeof tokenPair>>;
  refresh(refreshToken: string): Promise<z.infer<typeof tokenPair>>;
  logout(ctx: Ctx, refreshToken: string | undefined): Promise<void>;
}

const tokenPair = z.object({
  access_token: z.string(),
  refresh_token: z.string(),
  expires_in: z.int(),
  token_type: z.literal("Bearer"),
});

const refreshToken = z.string().min(1).max(512);
const headers = { "Cache-Control": "no-store" };
const answers = { 200: { description: "tokens", schema: tokenPair, name: "Tokens" } };

export function authRoutes(accounts: Login): Route[] {
  return [
    defineRoute({
      method: "POST",
      path: "/v1/auth/login",
      operationId: "login",
      summary: "Obtain an access token",
      tag: "auth",
      role: "anyone",
      body: z.strictObject({
        username: z.string().min(1).max(255),
        password: z.string().min(1).max(1024),
        mfa_code: z.string().max(32).nullish().describe("for users with a second factor"),
        project: z.string().min(1).max(255).optional().describe("id or name; default: the user's own"),
      }),
      answers,
      async handle({ body }) {
        const { mfa_code, ...rest } = body;
        const tokens = await accounts.login({ ...rest, mfaCode: mfa_code ?? undefined });
        return { status: 200, headers, body: { ...tokens } };
      },
    }),
    defineRoute({
      method: "POST",
      path: "/v1/auth/refresh",
      operationId: "refresh",
      summary: "Exchange a refresh token for new tokens; each is good once",
      tag: "auth",
      role: "anyone",
      body: z.strictObject({ refresh_token: refreshToken }),
      answers,
      async handle({ body }) {
        return { status: 200, headers, body: { ...(await accounts.refresh(body.refresh_token)) } };
      },
    }),
    defineRoute({
      method: "POST",
      path: "/v1/auth/logout",
      operationId: "logout",
      summary: "End the refresh token's family, or all of the caller's",
      tag: "auth",
      role: "viewer",
      body: z.strictObject({ refresh_token: refreshToken.optional() }),
      answers: { 204: { description: "ended" } },
      async handle({ ctx, body }) {
        await accounts.logout(ctx, body.refresh_token);
        return { status: 204, headers, body: null };
      },
    }),
  ];
}
