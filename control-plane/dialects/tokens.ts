/** Tokens for a login and for a refresh token, which two dialects hand out alike at paths of their own. */
import { z } from "zod";
import type { Ctx } from "#kernel/ctx.ts";
import type { Credentials } from "../app/accounts.ts";
import { defineRoute, type Route } from "../http/route.ts";

export interface Login {
  login(credentials: Credentials, trail: Ctx["trail"]): Promise<z.infer<typeof tokenPair>>;
  refresh(refreshToken: string, trail: Ctx["trail"]): Promise<z.infer<typeof tokenPair>>;
  logout(ctx: Ctx, refreshToken: string | undefined): Promise<void>;
}

/** Of a route that answers with tokens. */
type Place = Pick<Route, "path" | "operationId">;

export const tokenPair = z.object({
  access_token: z.string(),
  refresh_token: z.string(),
  expires_in: z.int(),
  token_type: z.literal("Bearer"),
});

export const refreshToken = z.string().min(1).max(512);
export const secretHeaders = { "Cache-Control": "no-store" };
/** Tokens as they look; these are nobody's. */
export const exampleTokens = {
  access_token: "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ1c3ItMSJ9.c2lnbmF0dXJl",
  refresh_token: "rt_0a1b2c3d4e5f",
  expires_in: 3600,
  token_type: "Bearer",
} as const;
const answers = { 200: { description: "tokens", schema: tokenPair, name: "Tokens" } };

/** A username and password for tokens. */
export function loginRoute(place: Place, accounts: Pick<Login, "login">): Route {
  return defineRoute({
    ...place,
    method: "POST",
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
    examples: {
      body: { username: "user@example.com", password: "correct horse", mfa_code: "123456" },
      answers: { 200: exampleTokens },
    },
    async handle({ ctx, body }) {
      const { mfa_code, ...rest } = body;
      const { trail } = ctx;
      const credentials = { ...rest, mfaCode: mfa_code ?? undefined, address: trail?.address };
      const tokens = await accounts.login(credentials, trail);
      return { status: 200, headers: secretHeaders, body: { ...tokens } };
    },
  });
}

/** A refresh token for new tokens. */
export function refreshRoute(place: Place, accounts: Pick<Login, "refresh">): Route {
  return defineRoute({
    ...place,
    method: "POST",
    summary: "Exchange a refresh token for new tokens; each is good once",
    tag: "auth",
    role: "anyone",
    body: z.strictObject({ refresh_token: refreshToken }),
    answers,
    examples: { body: { refresh_token: exampleTokens.refresh_token }, answers: { 200: exampleTokens } },
    async handle({ ctx, body }) {
      const tokens = await accounts.refresh(body.refresh_token, ctx.trail);
      return { status: 200, headers: secretHeaders, body: { ...tokens } };
    },
  });
}
