/**
 * Logins by way of an identity provider that people have already. Whoever comes back is the user who is
 * known under that subject, or at first the one person with the address of mail that the provider has verified; nobody is
 * made a user by logging in. A second factor is the provider's matter.
 */
import type { Ctx } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import type { Database } from "../store/database.ts";
import type { Accounts, TokenPair } from "./accounts.ts";
import type { OidcIdentity, OidcProvider } from "./oidc-provider.ts";
import type { Sealer } from "./sealer.ts";
import { digestOf, newSecret } from "./tokens.ts";

export interface OidcLoginOptions {
  readonly database: Database;
  readonly provider: OidcProvider;
  readonly accounts: Pick<Accounts, "loginAs">;
  readonly sealer: Sealer;
  readonly now?: () => number;
}

interface Begun {
  readonly verifier: string;
  readonly nonce: string;
  readonly redirect_uri: string;
  readonly project: string | null;
  readonly expires_at: Date;
}

const lifeMs = 10 * 60_000;

export class OidcLogin {
  readonly #options: OidcLoginOptions;
  readonly #now: () => number;

  constructor(options: OidcLoginOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** Begins a login: where to send the person, and the state that they come back with. */
  async begin(
    { redirectUri, project }: { readonly redirectUri: string; readonly project?: string | undefined },
    signal: AbortSignal,
  ): Promise<{ readonly authorization_url: string; readonly state: string }> {
    const { database, provider, sealer } = this.#options;
    const [state, nonce, verifier] = [newSecret(""), newSecret(""), newSecret("")];
    const authorization_url = await provider.authorizationUrl(
      { state, nonce, verifier, redirectUri },
      signal,
    );
    const stateHash = digestOf(state);
    await database.query(
      `insert into oidc_login (state_hash, verifier, nonce, redirect_uri, project, expires_at)
       values ($1, $2, $3, $4, $5, $6)`,
      [
        stateHash,
        sealer.seal(verifier, stateHash),
        nonce,
        redirectUri,
        project ?? null,
        new Date(this.#now() + lifeMs),
      ],
    );
    return { authorization_url, state };
  }

  /** Ends it with the code that the person came back with. Each state is good once. */
  async finish(
    { state, code }: { readonly state: string; readonly code: string },
    { signal, trail }: Pick<Ctx, "signal" | "trail">,
  ): Promise<TokenPair> {
    const { database, provider, accounts, sealer } = this.#options;
    const stateHash = digestOf(state);
    const [begun] = await database.query<Begun>("delete from oidc_login where state_hash = $1 returning *", [
      stateHash,
    ]);
    if (!begun || begun.expires_at.getTime() <= this.#now()) {
      throw new Fault("unauthenticated", "this login was not begun here, or too long ago", {
        reason: "OIDC_STATE_UNKNOWN",
      });
    }
    const { nonce, redirect_uri: redirectUri, project } = begun;
    const verifier = sealer.unseal(begun.verifier, stateHash);
    const identity = await provider.identify({ code, nonce, verifier, redirectUri }, signal);
    const accountId = (await this.#known(identity)) ?? (await this.#link(identity));
    if (accountId === undefined) {
      throw new Fault("denied", "there is no user with this address of mail: ask an administrator", {
        reason: "OIDC_USER_UNKNOWN",
      });
    }
    return accounts.loginAs(accountId, project ?? undefined, trail);
  }

  async #known({ subject }: OidcIdentity): Promise<string | undefined> {
    const [row] = await this.#options.database.query<{ id: string }>(
      "select account_id as id from oidc_identity where issuer = $1 and subject = $2",
      [this.#options.provider.issuer, subject],
    );
    return row?.id;
  }

  /** Ties a subject to the one person with its address; where several have it, nobody is meant. */
  async #link({ subject, email }: OidcIdentity): Promise<string | undefined> {
    if (email === undefined) return undefined;
    const { database, provider } = this.#options;
    const found = await database.query<{ id: string }>(
      `select u.id from resource u join account a on a.id = u.id
       where u.kind = 'user' and u.desired ->> 'type' = 'person' and lower(u.desired ->> 'email') = lower($1)
       limit 2`,
      [email],
    );
    const [only] = found;
    if (!only || found.length > 1) return undefined;
    await database.query(
      "insert into oidc_identity (issuer, subject, account_id) values ($1, $2, $3) on conflict do nothing",
      [provider.issuer, subject, only.id],
    );
    return this.#known({ subject, email });
  }
}
