/** Tokens as the Services API hands them out: for an API key or HTTP Basic by GET, for a login by POST. */
import { Fault } from "#kernel/fault.ts";
import type { Accounts } from "../../app/accounts.ts";
import { defineRoute, type Authenticator, type Route } from "../../http/route.ts";
import { exampleTokens, loginRoute, refreshRoute, secretHeaders, tokenPair, type Login } from "../tokens.ts";

export interface AuthOptions {
  readonly accounts: Pick<Login, "login" | "refresh"> & Pick<Accounts, "exchangeKey">;
  readonly authenticator: Authenticator;
}

const path = "/api/auth/token/";
const basic = /^basic +([A-Za-z0-9+/]{1,2000}={0,2})$/i;
/** Of an API key: it renews the access token itself, so there is none to refresh it. */
const accessToken = tokenPair.partial({ refresh_token: true });

export function authRoutes({ accounts, authenticator }: AuthOptions): Route[] {
  return [
    defineRoute({
      method: "GET",
      path,
      operationId: "getToken",
      summary: "An access token for the API key, or the username and password, of the Authorization header",
      tag: "auth",
      role: "anyone",
      // As much a login as the one by POST, and to be found in the audit log like that.
      changes: true,
      answers: { 200: { description: "tokens", schema: accessToken, name: "AccessToken" } },
      examples: { answers: { 200: exampleTokens } },
      async handle({ ctx: { trail }, request }) {
        const { authorization } = request.headers;
        const login = readBasic(authorization);
        const tokens = login
          ? await accounts.login({ ...login, address: trail?.address }, trail)
          : await accounts.exchangeKey(await authenticator.authenticate(authorization), trail);
        return { status: 200, headers: secretHeaders, body: { ...tokens } };
      },
    }),
    loginRoute({ path, operationId: "login" }, accounts),
    refreshRoute({ path: "/api/auth/refresh/", operationId: "refresh" }, accounts),
  ];
}

/** RFC 7617: UTF-8, and no colon in the name. */
function readBasic(authorization = ""): { readonly username: string; readonly password: string } | undefined {
  const encoded = basic.exec(authorization)?.[1];
  if (encoded === undefined) return undefined;
  const text = Buffer.from(encoded, "base64").toString("utf8");
  const colon = text.indexOf(":");
  // What cannot be stored cannot be anybody's name either.
  if (colon > 0 && colon <= 255 && text.length - colon <= 1025 && !text.includes("\0")) {
    return { username: text.slice(0, colon), password: text.slice(colon + 1) };
  }
  throw new Fault("unauthenticated", "Basic takes the base64 of `username:password`", {
    reason: "CREDENTIALS_MALFORMED",
  });
}
