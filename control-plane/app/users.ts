/** Users and what they are in which project. The kind `user` is what everybody may read of them. */
import { randomBytes } from "node:crypto";
import { roles, type Ctx, type Role } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import { user, type User, type UserSpec } from "../resources/user/user.resource.ts";
import type { Database } from "../store/database.ts";
import { insertAccount, type AccountStore, type Membership } from "./account-store.ts";
import { postAudit } from "./audit.ts";
import { requireProject } from "./authorisation.ts";
import { ownAccount, requireReach } from "./directory-guards.ts";
import { highest } from "./identity-store.ts";
import { LoginGuard } from "./login-guard.ts";
import type { Passwords } from "./passwords.ts";
import type { ListPage, ListQuery, MutationOptions, Reply } from "./resource-api.ts";
import type { ResourceService } from "./resource-service.ts";
import { type SecondFactor, wrongCode } from "./second-factor.ts";
import type { SessionStore } from "./session-store.ts";
import type { Tokens } from "./tokens.ts";
import { invalidField } from "./validation.ts";

export interface NewUser {
  readonly username: string;
  readonly spec: Partial<UserSpec>;
  /** In the caller's project. */
  readonly role: Role;
  /** Default: a random one, which is in the answer and nowhere else. Service accounts have none. */
  readonly password?: string | undefined;
  /** True: it logs in with a second factor from the beginning, which is in the answer and nowhere else. */
  readonly mfa?: boolean | undefined;
}

export interface UserWithRole {
  readonly user: User;
  /** In the caller's project, in person or by a group; undefined: none. */
  readonly role: Role | undefined;
}

/** What a new user is told once. */
export interface Secrets {
  /** When it was generated. */
  readonly password?: string;
  readonly mfa?: Awaited<ReturnType<SecondFactor["assign"]>>;
}

export interface CreateOptions {
  readonly idempotency: MutationOptions["idempotency"];
  respond(made: UserWithRole, secrets: Secrets): Reply;
}

export interface UsersOptions {
  readonly database: Database;
  readonly resources: Pick<ResourceService, "create" | "get" | "list">;
  readonly store: AccountStore;
  readonly sessions: Pick<SessionStore, "setPassword">;
  readonly passwords: Passwords;
  readonly secondFactor: SecondFactor;
  readonly tokens: Pick<Tokens, "forget">;
  readonly now?: () => number;
}

const usernamePattern = /^[\p{L}\p{N}][\p{L}\p{N}._@+-]{0,253}$/u;
const generatedPasswordBytes = 18;
const minPasswordLength = 8;

export class Users {
  readonly #options: UsersOptions;
  readonly #guard: LoginGuard;

  constructor(options: UsersOptions) {
    this.#options = options;
    this.#guard = new LoginGuard(options);
  }

  /** Makes a user of the caller's project. */
  async create(ctx: Ctx, wish: NewUser, options: CreateOptions): Promise<Reply> {
    const { resources, passwords, secondFactor } = this.#options;
    const { username, spec, role, mfa = false } = wish;
    if (!usernamePattern.test(username)) {
      throw invalidField("username", "must be letters, digits and any of . _ @ + -");
    }
    const isPerson = spec.type !== "service";
    if (!isPerson && wish.password !== undefined) {
      throw invalidField("password", "a service account has API keys and no password");
    }
    const generated =
      isPerson && wish.password === undefined
        ? randomBytes(generatedPasswordBytes).toString("base64url")
        : undefined;
    const password = wish.password ?? generated;
    const passwordHash = password === undefined ? null : await passwords.hash(checkPassword(password));
    const { project } = ctx.principal;
    return resources.create(
      ctx,
      user,
      { name: username, spec },
      {
        idempotency: options.idempotency,
        respond: (made, secrets = {}) => options.respond({ user: made as User, role }, secrets),
      },
      {
        observed: { mfa_enabled: mfa },
        also: async (tx, { id }) => {
          await insertAccount(tx, { id, username, passwordHash, project, role });
          const factor = mfa ? await secondFactor.assign(tx, id, username) : undefined;
          return { ...(generated !== undefined && { password: generated }), ...(factor && { mfa: factor }) };
        },
      },
    );
  }

  /** A page of the users that the caller sees, each with its role in the caller's project. */
  async list(ctx: Ctx, query: ListQuery): Promise<{ items: readonly UserWithRole[]; total: number }> {
    const { resources, store } = this.#options;
    const { items, total } = (await resources.list(ctx, user, query)) as ListPage<User>;
    const known = await store.rolesIn(
      ctx.principal.project,
      items.map(({ id }) => id),
    );
    return { items: items.map((one) => ({ user: one, role: highest(known.get(one.id) ?? []) })), total };
  }

  async get(ctx: Ctx, id: string): Promise<UserWithRole> {
    const found = (await this.#options.resources.get(ctx, user, id)) as User;
    const known = await this.#options.store.rolesIn(ctx.principal.project, [found.id]);
    return { user: found, role: highest(known.get(found.id) ?? []) };
  }

  /** Who is what in a project. */
  async listMembers(ctx: Ctx, project: string): Promise<readonly Membership[]> {
    requireProject(ctx, project);
    return this.#options.store.listMembers(project);
  }

  /** Gives a user a role in a project, or takes it away (`undefined`). Nobody changes what they are themselves. */
  async setRole(ctx: Ctx, project: string, userId: string, role: Role | undefined): Promise<void> {
    const { store, tokens, database } = this.#options;
    requireProject(ctx, project);
    if (userId === ctx.principal.id) throw ownAccount();
    await database.transaction(async (tx) => {
      const member = await store.lockMember(tx, userId, project);
      if (!member || (role === undefined && member.role === null)) throw userNotFound(userId);
      await (role === undefined
        ? store.removeRole(tx, userId, project)
        : store.setRole(tx, userId, project, role));
      const facts = (of: Role) => ({ user_id: userId, username: member.username, role: of });
      postAudit(tx, ctx, {
        action: `project.members.${role === undefined ? "delete" : "set"}`,
        resource: "project",
        resource_id: project,
        success: true,
        ...(member.role && { before: facts(member.role) }),
        ...(role && { after: facts(role) }),
      });
    });
    tokens.forget();
  }

  /** Sets another password; all logins end. One's own takes the present one. */
  async setPassword(
    ctx: Ctx,
    userId: string,
    { password, current }: { readonly password: string; readonly current?: string | undefined },
  ): Promise<void> {
    const { sessions, passwords, tokens, database } = this.#options;
    if (userId === ctx.principal.id) {
      const given = { username: ctx.principal.name, password: current ?? "", address: ctx.trail?.address };
      if (!(await this.#guard.identify(given))) {
        const message =
          "the present password is not right; after several failures it is refused for some minutes";
        throw new Fault("denied", message, { reason: "PASSWORD_WRONG" });
      }
    } else {
      const { user: other } = await this.get(ctx, userId);
      await requireReach(database, ctx, other.id);
      if (other.desired.type === "service") throw invalidField("password", "a service account has none");
    }
    await sessions.setPassword(userId, await passwords.hash(checkPassword(password)));
    tokens.forget();
  }

  /** Takes the caller's own second factor away, by a code; wrong ones lock out like wrong passwords. */
  async removeOwnFactor(ctx: Ctx, code: string): Promise<void> {
    const { secondFactor } = this.#options;
    const { id, name } = ctx.principal;
    const isRight = async () => (await secondFactor.check(id, code)) === true;
    if (!(await this.#guard.passes(name, ctx.trail?.address, isRight))) throw wrongCode();
    await secondFactor.remove(ctx, id);
  }

  /** Takes away the second factor of a user who has lost it. */
  async resetFactor(ctx: Ctx, userId: string): Promise<void> {
    const { user: other } = await this.get(ctx, userId);
    await requireReach(this.#options.database, ctx, other.id);
    await this.#options.secondFactor.remove(ctx, other.id);
  }

  /** Who owns the keys that an administrator handles for somebody else: service accounts only. */
  async keyOwner(ctx: Ctx, userId: string): Promise<string> {
    const { user: owner } = await this.get(ctx, userId);
    if (owner.desired.type !== "service") {
      throw new Fault("denied", "people make their API keys themselves", { reason: "NOT_A_SERVICE_ACCOUNT" });
    }
    await requireReach(this.#options.database, ctx, owner.id);
    return owner.id;
  }
}

/** Also the answer for one that the caller cannot see. */
export const userNotFound = (id: string) =>
  new Fault("notFound", `there is no user with the id ${id.slice(0, 80)}`, {
    reason: "USER_NOT_FOUND",
    detail: { id: id.slice(0, 80) },
  });

function checkPassword(password: string): string {
  if ([...password].length >= minPasswordLength) return password;
  throw invalidField("password", `must be at least ${String(minPasswordLength)} characters long`);
}

/** The role that a dialect calls `operator` or `role-operator`; undefined for a name of none. */
export function roleNamed(name: string): Role | undefined {
  return roles.find((role) => name === role || name === `role-${role}`);
}
