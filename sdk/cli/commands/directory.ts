/** `skerry project`, `user`, `group`, `role`, `apikey` and `quota`: who may do what, and how much. */
import { Argument, Command, Option } from "commander";
import { roles, type Role } from "#kernel/ctx.ts";
import type { Skerry } from "../../client.ts";
import type { ApiKeyInfo, Member, QuotaLine } from "../../directory.ts";
import type { Project, User } from "../../kinds/generated.ts";
import { readLines } from "../asking.ts";
import type { Column } from "../output.ts";
import type { Run, Session } from "../session.ts";
import { formatSize, parseDuration, parseInteger, parseSize } from "../units.ts";
import { askNewPassword } from "./account.ts";
import { groupCommand, userId } from "./group.ts";

const roleOption = () => new Option("--role <role>", "what they may do").choices(roles);

/** The commands about people, their rights and their projects. */
export function directoryCommands(run: Run): Command[] {
  return [
    projectCommand(run),
    userCommand(run),
    groupCommand(run),
    roleCommand(run),
    keyCommand(run),
    quotaCommand(run),
  ];
}

function projectCommand(run: Run): Command {
  const project = new Command("project").description("tenants of the cloud");
  project
    .command("ls")
    .alias("list")
    .description("list projects")
    .action(
      run(async (session) => {
        const { projects } = await session.cloud();
        session.out.list(await projects.list({}, { signal: session.signal }).all(), projectColumns);
      }),
    );
  project
    .command("show")
    .description("show a project with what it has, and may have")
    .argument("[project]", "name or id; default: the present one")
    .action(run(showProject));
  project
    .command("create")
    .description("make a project")
    .argument("<name>")
    .option("--description <text>", "what it is for")
    .action(
      run(async (session, name: string, { description }: { description?: string }) => {
        const { projects } = await session.cloud();
        const spec = description === undefined ? {} : { description };
        const made = await projects.create({ name, spec }, { signal: session.signal });
        session.out.done(`Made project ${name} (${made.id}).`, made);
      }),
    );
  project
    .command("rm")
    .description("delete an empty project")
    .argument("<project>", "name or id")
    .action(
      run(async (session, name: string) => {
        const cloud = await session.cloud();
        const id = await projectId(session, cloud, name);
        await cloud.projects.delete(id, { signal: session.signal });
        session.out.done(`Deleted project ${name}.`, { id });
      }),
    );
  return project;
}

async function showProject(session: Session, name: string | undefined): Promise<void> {
  const cloud = await session.cloud();
  const { signal } = session;
  const id = await projectId(session, cloud, name);
  const found = await cloud.projects.get(id, { signal });
  const quota = await cloud.projects.quota(id, { signal });
  const line = ({ name, used, limit }: QuotaLine) =>
    `${amount(name, used)}${limit === null ? "" : ` of ${amount(name, limit)}`} ${name.replace(/_bytes$/, "")}`;
  session.out.show({ ...found, quota }, [
    ["name", found.name],
    ["id", found.id],
    ["phase", found.phase],
    ["description", found.spec.description],
    ["has", quota.map(line).join("\n")],
  ]);
}

async function showUser(session: Session, name: string): Promise<void> {
  const { users } = await session.cloud();
  const found = await users.find(name, { signal: session.signal });
  const { spec, status } = found;
  session.out.show(found, [
    ["name", found.name],
    ["id", found.id],
    ["type", spec.type],
    ["phase", found.phase],
    ["project", found.project],
    ["email", spec.email ?? ""],
    ["second factor", status?.mfa_enabled ? "yes" : "no"],
    ["plan", spec.plan],
  ]);
}

function userCommand(run: Run): Command {
  const user = new Command("user").description("people and service accounts");
  user
    .command("ls")
    .alias("list")
    .description("list users")
    .action(
      run(async (session) => {
        const { users } = await session.cloud();
        session.out.list(await users.list({}, { signal: session.signal }).all(), userColumns);
      }),
    );
  user.command("show").description("show a user").argument("<user>", "name or id").action(run(showUser));
  user
    .command("create")
    .description("make a user of the present project; a password is made up and shown this once")
    .argument("<name>")
    .option("--email <address>")
    .option("--service", "a service account: API keys and no password")
    .addOption(roleOption().default("viewer"))
    .action(
      run(async (session, name: string, options: { email?: string; service?: true; role: Role }) => {
        const { users } = await session.cloud();
        const spec = {
          ...(options.email !== undefined && { email: options.email }),
          ...(options.service && { type: "service" as const }),
        };
        const made = await users.add({ name, spec, role: options.role }, { signal: session.signal });
        const told = made.password === undefined ? "" : ` Password: ${made.password}`;
        session.out.done(`Made user ${name} (${made.id}).${told}`, made);
      }),
    );
  for (const verb of ["disable", "enable"] as const) {
    user
      .command(verb)
      .description(verb === "disable" ? "let a user in no more" : "let a user in again")
      .argument("<user>", "name or id")
      .action(
        run(async (session, name: string) => {
          const { users } = await session.cloud();
          const { id } = await users.find(name, { signal: session.signal });
          const change = { spec: { disabled: verb === "disable" } };
          session.out.done(
            `${name} is ${verb}d.`,
            await users.update(id, change, { signal: session.signal }),
          );
        }),
      );
  }
  user
    .command("password")
    .description("set a user's password; all logins of theirs end")
    .argument("<user>", "name or id")
    .option("--password-stdin", "read it from standard input")
    .action(
      run(async (session, name: string, { passwordStdin }: { passwordStdin?: true }) => {
        const { users } = await session.cloud();
        const { id } = await users.find(name, { signal: session.signal });
        const [password = ""] = passwordStdin ? await readLines(session, 1) : [await askNewPassword(session)];
        await users.setPassword(id, password, { signal: session.signal });
        session.out.done(`Set the password of ${name}.`, { id });
      }),
    );
  user
    .command("reset-mfa")
    .description("take away the second factor of a user who has lost it")
    .argument("<user>", "name or id")
    .action(
      run(async (session, name: string) => {
        const { users } = await session.cloud();
        const { id } = await users.find(name, { signal: session.signal });
        await users.resetFactor(id, { signal: session.signal });
        session.out.done(`${name} logs in without a code.`, { id });
      }),
    );
  user
    .command("rm")
    .description("delete a user with their keys and logins")
    .argument("<user>", "name or id")
    .action(
      run(async (session, name: string) => {
        const { users } = await session.cloud();
        const { id } = await users.find(name, { signal: session.signal });
        await users.delete(id, { signal: session.signal });
        session.out.done(`Deleted user ${name}.`, { id });
      }),
    );
  return user;
}

function roleCommand(run: Run): Command {
  const role = new Command("role").description("who is what in a project");
  const projectOption = () => new Option("--project <project>", "name or id; default: the present one");
  role
    .command("ls")
    .alias("list")
    .description("list a project's members")
    .addOption(projectOption())
    .action(
      run(async (session, options: { project?: string }) => {
        const cloud = await session.cloud();
        const id = await projectId(session, cloud, options.project);
        session.out.list(await cloud.projects.members(id, { signal: session.signal }), memberColumns);
      }),
    );
  role
    .command("set")
    .alias("grant")
    .description("give a user, or a group, a role in a project, or take it away (none)")
    .argument("<user>", "name or id; with --group, of a group")
    .addArgument(new Argument("<role>", "what they may do").choices([...roles, "none"]))
    .option("--group", "a group, whose members have the role then; its project is its own")
    .addOption(projectOption().conflicts("group"))
    .action(
      run(async (session, who: string, wanted: Role | "none", options: RoleOptions) => {
        const cloud = await session.cloud();
        const call = { signal: session.signal };
        const wish = wanted === "none" ? undefined : wanted;
        if (options.group) {
          const { id, project } = await cloud.groups.find(who, call);
          await cloud.groups.update(id, { spec: { role: wish ?? null } }, call);
          return session.out.done(`${who}: ${wanted}.`, { project, group: id, role: wanted });
        }
        const id = await projectId(session, cloud, options.project);
        const user = await userId(session, cloud, who);
        await cloud.projects.setRole(id, user, wish, call);
        session.out.done(`${who}: ${wanted}.`, { project: id, user, role: wanted });
      }),
    );
  return role;
}

interface RoleOptions {
  readonly project?: string;
  readonly group?: true;
}

interface KeyOptions {
  readonly role?: Role;
  readonly readOnly?: true;
  /** Milliseconds. */
  readonly expires?: number;
  readonly user?: string;
}

function keyCommand(run: Run): Command {
  const key = new Command("apikey").description("API keys, one's own or a service account's");
  const userOption = () => new Option("--user <user>", "name or id of a service account");
  const keysOf = async (session: Session, user: string | undefined) => {
    const cloud = await session.cloud();
    if (user === undefined) return cloud.apiKeys;
    return cloud.users.apiKeys((await cloud.users.find(user, { signal: session.signal })).id);
  };
  key
    .command("ls")
    .alias("list")
    .description("list API keys")
    .addOption(userOption())
    .action(
      run(async (session, { user }: KeyOptions) => {
        const keys = await keysOf(session, user);
        session.out.list(await keys.list({ signal: session.signal }), keyColumns);
      }),
    );
  key
    .command("create")
    .description("make an API key of the present project; it is shown this once")
    .argument("<name>")
    .addOption(roleOption())
    .option("--read-only", "it changes nothing")
    .option("--expires <duration>", "how long it is good, such as 30d", parseDuration)
    .addOption(userOption())
    .action(
      run(async (session, name: string, { role, readOnly, expires, user }: KeyOptions) => {
        const keys = await keysOf(session, user);
        const seconds = expires === undefined ? undefined : Math.round(expires / 1000);
        const wish = { name, role, read_only: readOnly, expires_in_seconds: seconds };
        const made = await keys.create(wish, { signal: session.signal });
        session.out.done(`Made API key ${made.id}: ${made.api_key}`, made);
      }),
    );
  key
    .command("rm")
    .description("revoke an API key")
    .argument("<key>", "id")
    .addOption(userOption())
    .action(
      run(async (session, id: string, { user }: KeyOptions) => {
        await (await keysOf(session, user)).delete(id, { signal: session.signal });
        session.out.done(`Revoked ${id}.`, { id });
      }),
    );
  return key;
}

function quotaCommand(run: Run): Command {
  const quota = new Command("quota").description("what a project has, and may have");
  quota
    .command("ls")
    .alias("list")
    .description("list a project's quotas")
    .argument("[project]", "name or id; default: the present one")
    .action(
      run(async (session, name: string | undefined) => {
        const cloud = await session.cloud();
        const id = await projectId(session, cloud, name);
        session.out.list(await cloud.projects.quota(id, { signal: session.signal }), quotaColumns);
      }),
    );
  quota
    .command("set")
    .description("limit what a project may have")
    .argument("<project>", "name or id")
    .argument("<name>", "such as instances, cpus, memory_bytes")
    .argument("<limit>", "a number, such as 8 or 64g, or none", parseLimit)
    .action(
      run(async (session, name: string, which: string, limit: number | null) => {
        const cloud = await session.cloud();
        const id = await projectId(session, cloud, name);
        const { spec } = await cloud.projects.get(id, { signal: session.signal });
        const { [which]: _before, ...others } = spec.quota;
        // A merge patch takes a limit away by null.
        const next = { ...others, [which]: limit as number };
        await cloud.projects.update(id, { spec: { quota: next } }, { signal: session.signal });
        session.out.done(`${name}: ${which} ${limit === null ? "none" : amount(which, limit)}.`, {
          project: id,
          quota: which,
          limit,
        });
      }),
    );
  return quota;
}

/** Null is no limit. */
function parseLimit(text: string): number | null {
  if (text === "none") return null;
  return /\d[kmgt]i?b?$/i.test(text) ? parseSize(text) : parseInteger(0, Number.MAX_SAFE_INTEGER)(text);
}

const amount = (quota: string, value: number): string =>
  quota.endsWith("_bytes") ? formatSize(value) : String(value);

async function projectId({ signal }: Session, cloud: Skerry, name: string | undefined): Promise<string> {
  if (name === undefined) return (await cloud.whoami({ signal })).project;
  if (name === "root" || name.startsWith("prj-")) return name;
  return (await cloud.projects.find(name, { signal })).id;
}

const projectColumns: readonly Column<Project>[] = [
  { title: "NAME", value: (r) => r.name },
  { title: "ID", value: (r) => r.id },
  { title: "PHASE", value: (r) => r.phase, phase: true },
  { title: "DESCRIPTION", value: (r) => r.spec.description },
];

const userColumns: readonly Column<User>[] = [
  { title: "NAME", value: (r) => r.name },
  { title: "ID", value: (r) => r.id },
  { title: "TYPE", value: (r) => r.spec.type },
  { title: "PHASE", value: (r) => r.phase, phase: true },
  { title: "MFA", value: (r) => (r.status?.mfa_enabled ? "yes" : "no") },
  { title: "EMAIL", value: (r) => r.spec.email ?? "" },
];

const memberColumns: readonly Column<Member>[] = [
  { title: "USER", value: (r) => r.username },
  { title: "ROLE", value: (r) => r.role },
  { title: "GROUP", value: (r) => r.group?.name ?? "" },
  { title: "ID", value: (r) => r.user_id },
];

const keyColumns: readonly Column<ApiKeyInfo>[] = [
  { title: "NAME", value: (r) => r.name },
  { title: "ID", value: (r) => r.id },
  { title: "ROLE", value: (r) => (r.read_only ? "read only" : r.role) },
  { title: "LAST USED", value: (r) => r.last_used_at ?? "" },
  { title: "EXPIRES", value: (r) => r.expires_at ?? "" },
];

const quotaColumns: readonly Column<QuotaLine>[] = [
  { title: "NAME", value: (r) => r.name },
  { title: "USED", value: (r) => amount(r.name, r.used), align: "right" },
  { title: "LIMIT", value: (r) => (r.limit === null ? "" : amount(r.name, r.limit)), align: "right" },
];
