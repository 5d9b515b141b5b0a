import { z } from "zod";
import { defineRoute, type Route } from "../../http/route.ts";
import { loginRoute, refreshRoute, refreshToken, secretHeaders, type Login } from "../tokens.ts";

export function authRoutes(accounts: Login): Route[] {
  return [
    loginRoute({ path: "/v1/auth/login", operationId: "login" }, accounts),
    refreshRoute({ path: "/v1/auth/refresh", operationId: "refresh" }, accounts),
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
        return { status: 204, headers: secretHeaders, body: null };
      },
    }),
  ];
}
