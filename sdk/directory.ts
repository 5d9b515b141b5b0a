/** Users, members of projects and groups, and API keys: what their kinds cannot say. */
import type { Role } from "#kernel/ctx.ts";
import type { User, UserInput } from "./kinds/generated.ts";
import type { CallOptions, Transport } from "./transport.ts";

export interface ApiKeyInfo {
  readonly id: string;
  readonly name: string;
  readonly project: string;
  /** The most that it may. */
  readonly role: Role;
  readonly read_only: boolean;
  readonly created_at: string;
  readonly last_used_at: string | null;
  readonly expires_at: string | null;
}

export interface ApiKeyWish {
  readonly name: string;
  readonly role?: Role | undefined;
  readonly read_only?: boolean | undefined;
  readonly expires_in_seconds?: number | undefined;
}

export interface Member {
  readonly user_id: string;
  readonly username: string;
  readonly project: string;
  readonly role: Role;
  /** Where the role comes from; null: the user has it in person. */
  readonly group: { readonly id: string; readonly name: string } | null;
}

export interface GroupMember {
  readonly user_id: string;
  readonly username: string;
}

export interface QuotaLine {
  readonly name: string;
  readonly used: number;
  /** Null: none. */
  readonly limit: number | null;
}

export interface NewUser {
  readonly name: string;
  readonly spec?: UserInput;
  /** In the caller's project. Default: viewer. */
  readonly role?: Role;
  /** Default: a random one, which is in the answer and nowhere else. */
  readonly password?: string;
}

const base = "/skerry/v1";

interface Items<T> {
  readonly items: readonly T[];
}

/** The API keys of one owner. */
export function apiKeyExtras(transport: Transport, path: string) {
  return {
    async list(options: CallOptions = {}): Promise<readonly ApiKeyInfo[]> {
      return (await transport.required<Items<ApiKeyInfo>>({ ...options, method: "GET", path })).items;
    },
    /** Makes a key; `api_key` is shown this once. */
    create(wish: ApiKeyWish, options: CallOptions = {}): Promise<ApiKeyInfo & { readonly api_key: string }> {
      return transport.required({ ...options, method: "POST", path, body: wish });
    },
    async delete(id: string, options: CallOptions = {}): Promise<void> {
      await transport.json({ ...options, method: "DELETE", path: `${path}/${encodeURIComponent(id)}` });
    },
  };
}

/** What somebody takes into an authenticator app. */
export interface FactorSecret {
  readonly secret: string;
  readonly otpauth_url: string;
}

/** One's own password and second factor. */
export function accountExtras(transport: Transport) {
  const mfa = `${base}/mfa`;
  return {
    /** All one's logins end. */
    async setPassword(
      body: { readonly current: string; readonly password: string },
      options: CallOptions = {},
    ): Promise<void> {
      await transport.json({ ...options, method: "PUT", path: `${base}/password`, body });
    },
    /** Begins a second factor; it counts once a code of it was confirmed. */
    beginFactor(options: CallOptions = {}): Promise<FactorSecret> {
      return transport.required({ ...options, method: "POST", path: mfa });
    },
    /** From now on a login takes a code. Gives the recovery codes, this once. */
    async confirmFactor(code: string, options: CallOptions = {}): Promise<readonly string[]> {
      const call = { ...options, method: "POST", path: `${mfa}/confirm`, body: { code } } as const;
      return (await transport.required<{ readonly recovery_codes: readonly string[] }>(call)).recovery_codes;
    },
    /** @param code of the app, or a recovery code */
    async removeFactor(code: string, options: CallOptions = {}): Promise<void> {
      await transport.json({ ...options, method: "DELETE", path: mfa, body: { code } });
    },
  };
}

/** Making users, their passwords, and the keys of service accounts. */
export function userExtras(transport: Transport) {
  return {
    /** As `create`, with a role and a password. */
    add(wish: NewUser, options: CallOptions = {}): Promise<User & { readonly password?: string }> {
      return transport.required({ ...options, method: "POST", path: `${base}/users`, body: wish });
    },
    async setPassword(id: string, password: string, options: CallOptions = {}): Promise<void> {
      const path = `${base}/users/${encodeURIComponent(id)}/password`;
      await transport.json({ ...options, method: "PUT", path, body: { password } });
    },
    /** Takes away the second factor of a user who has lost it. */
    async resetFactor(id: string, options: CallOptions = {}): Promise<void> {
      await transport.json({
        ...options,
        method: "DELETE",
        path: `${base}/users/${encodeURIComponent(id)}/mfa`,
      });
    },
    /** The API keys of a service account. */
    apiKeys: (id: string) => apiKeyExtras(transport, `${base}/users/${encodeURIComponent(id)}/api-keys`),
  };
}

/** Who is what in a project. */
export function projectExtras(transport: Transport) {
  const members = (project: string) => `${base}/projects/${encodeURIComponent(project)}/members`;
  return {
    async members(project: string, options: CallOptions = {}): Promise<readonly Member[]> {
      const call = { ...options, method: "GET", path: members(project) } as const;
      return (await transport.required<Items<Member>>(call)).items;
    },
    /** What the project has, and may have. */
    async quota(project: string, options: CallOptions = {}): Promise<readonly QuotaLine[]> {
      const path = `${base}/projects/${encodeURIComponent(project)}/quota`;
      return (await transport.required<Items<QuotaLine>>({ ...options, method: "GET", path })).items;
    },
    /** Gives a user a role in a project; `undefined` takes it away. */
    async setRole(
      project: string,
      user: string,
      role: Role | undefined,
      options: CallOptions = {},
    ): Promise<void> {
      const path = `${members(project)}/${encodeURIComponent(user)}`;
      await transport.json(
        role === undefined
          ? { ...options, method: "DELETE", path }
          : { ...options, method: "PUT", path, body: { role } },
      );
    },
  };
}

/** Who is in a group. */
export function groupExtras(transport: Transport) {
  const members = (group: string) => `${base}/groups/${encodeURIComponent(group)}/members`;
  const member = (group: string, user: string) => `${members(group)}/${encodeURIComponent(user)}`;
  return {
    async members(group: string, options: CallOptions = {}): Promise<readonly GroupMember[]> {
      const call = { ...options, method: "GET", path: members(group) } as const;
      return (await transport.required<Items<GroupMember>>(call)).items;
    },
    /** Puts a user into a group. */
    async addMember(group: string, user: string, options: CallOptions = {}): Promise<void> {
      await transport.json({ ...options, method: "PUT", path: member(group, user) });
    },
    /** Takes a user out of a group. */
    async removeMember(group: string, user: string, options: CallOptions = {}): Promise<void> {
      await transport.json({ ...options, method: "DELETE", path: member(group, user) });
    },
  };
}
