/** Native routes of logins by way of another identity provider; there when the operator has named one. */
import { z } from "zod";
import type { OidcLogin } from "../app/oidc-login.ts";
import { defineRoute, type Route } from "./route.ts";

const headers = { "Cache-Control": "no-store" };
const redirectUri = z.url({ protocol: /^https?$/ }).max(2048);

const tokens = z.object({
  access_token: z.string(),
  refresh_token: z.string(),
  expires_in: z.int(),
  token_type: z.literal("Bearer"),
});

/** The routes, to be given to `nativeSurface`. */
export function oidcRoutes(login: Pick<OidcLogin, "begin" | "finish">): Route[] {
  const common = { method: "POST", tag: "identity", role: "anyone" } as const;
  return [
    defineRoute({
      ...common,
      path: "/skerry/v1/oidc/begin",
      operationId: "beginOidcLogin",
      summary: "Begin a login at the identity provider",
      body: z.strictObject({
        redirect_uri: redirectUri.describe("where the provider sends the person back to; registered there"),
        project: z.string().min(1).max(255).optional().describe("id or name; default: the user's own"),
      }),
      answers: {
        200: {
          description: "where to send the person, and the state to compare with the one they come back with",
          schema: z.object({ authorization_url: z.string(), state: z.string() }),
        },
      },
      async handle({ ctx, body: { redirect_uri, project } }) {
        const begun = await login.begin({ redirectUri: redirect_uri, project }, ctx.signal);
        return { status: 200, headers, body: { ...begun } };
      },
    }),
    defineRoute({
      ...common,
      path: "/skerry/v1/oidc/finish",
      operationId: "finishOidcLogin",
      summary: "End it: tokens for the code that the person came back with",
      body: z.strictObject({ state: z.string().min(1).max(512), code: z.string().min(1).max(4096) }),
      answers: { 200: { description: "tokens", schema: tokens } },
      async handle({ ctx, body }) {
        return { status: 200, headers, body: { ...(await login.finish(body, ctx)) } };
      },
    }),
  ];
}
