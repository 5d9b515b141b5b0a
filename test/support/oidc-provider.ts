/** An OpenID Connect provider on a free port: real keys, real signatures, PKCE; it lets in whom the test says. */
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { exportJWK, generateKeyPair, SignJWT, type JWTPayload } from "jose";
import type { Teardown } from "./postgres.ts";

export interface Person {
  readonly sub: string;
  readonly email?: string;
  readonly email_verified?: boolean;
}

interface Grant {
  readonly person: Person;
  readonly challenge: string;
  readonly redirectUri: string;
  readonly nonce: string;
}

/** What the provider does wrong, when it is to do something wrong. */
export interface Mischief {
  readonly claims?: JWTPayload;
  readonly foreignKey?: true;
}

export const oidcClient = { clientId: "skerry-test", clientSecret: "a client's secret" };

export async function startOidcProvider(t: Teardown) {
  const { privateKey, publicKey } = await generateKeyPair("ES256");
  const foreign = await generateKeyPair("ES256");
  const grants = new Map<string, Grant>();
  let mischief: Mischief = {};
  const server = createServer((request, response) => {
    const answer = (status: number, body: object) =>
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
    const { pathname } = new URL(request.url ?? "/", issuer);
    if (pathname === "/.well-known/openid-configuration") {
      const [authorization_endpoint, token_endpoint, jwks_uri] = ["authorize", "token", "jwks"].map(
        (name) => `${issuer}/${name}`,
      );
      return answer(200, { issuer, authorization_endpoint, token_endpoint, jwks_uri });
    }
    if (pathname === "/jwks") {
      return void exportJWK(publicKey).then((jwk) =>
        answer(200, { keys: [{ ...jwk, kid: "one", alg: "ES256" }] }),
      );
    }
    if (pathname !== "/token") return answer(404, {});
    return void bodyOf(request).then(async (form) => {
      const grant = grants.get(form.get("code") ?? "");
      grants.delete(form.get("code") ?? "");
      const proof = createHash("sha256")
        .update(form.get("code_verifier") ?? "")
        .digest("base64url");
      const basic = `Basic ${Buffer.from(`${oidcClient.clientId}:${encodeURIComponent(oidcClient.clientSecret)}`).toString("base64")}`;
      const good =
        grant?.challenge === proof &&
        grant.redirectUri === form.get("redirect_uri") &&
        request.headers.authorization === basic;
      if (!good) return answer(400, { error: "invalid_grant" });
      const now = Math.floor(Date.now() / 1000);
      const claims = { iss: issuer, aud: oidcClient.clientId, iat: now, exp: now + 300, nonce: grant.nonce };
      const id_token = await new SignJWT({ ...claims, ...grant.person, ...mischief.claims })
        .setProtectedHeader({ alg: "ES256", kid: "one" })
        .sign(mischief.foreignKey ? foreign.privateKey : privateKey);
      return answer(200, { access_token: "unused", token_type: "Bearer", id_token });
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const issuer = `http://127.0.0.1:${String((server.address() as AddressInfo).port)}`;
  t.teardown(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  });
  return {
    issuer,
    /** What a browser would do: logs the person in, and gives what the provider sends them back with. */
    authorize(authorizationUrl: string, person: Person): { readonly state: string; readonly code: string } {
      const { searchParams: asked } = new URL(authorizationUrl);
      const of = (name: string) => asked.get(name) ?? "";
      if (of("code_challenge_method") !== "S256" || of("client_id") !== oidcClient.clientId) {
        throw new Error(`not a request of this client: ${authorizationUrl}`);
      }
      const code = randomBytes(12).toString("hex");
      const [challenge, redirectUri, nonce] = [of("code_challenge"), of("redirect_uri"), of("nonce")];
      grants.set(code, { person, challenge, redirectUri, nonce });
      return { state: of("state"), code };
    },
    misbehave(how: Mischief): void {
      mischief = how;
    },
  };
}

async function bodyOf(request: IncomingMessage): Promise<URLSearchParams> {
  let text = "";
  for await (const chunk of request) text += String(chunk);
  return new URLSearchParams(text);
}
