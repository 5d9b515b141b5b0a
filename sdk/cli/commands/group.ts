/** `skerry group`: users who have a role in a project together. */
import { Command, Option } from "commander";
import { roles, type Role } from "#kernel/ctx.ts";
import type { Skerry } from "../../client.ts";
import type { Group } from "../../kinds/generated.ts";
import type { Column } from "../output.ts";
import type { Run, Session } from "../session.ts";

interface CreateOptions {
  readonly description?: string;
  readonly role?: Role;
}

/** The commands about groups and who is in them. */
export function groupCommand(run: Run): Command {
  const group = new Command("group").description("users who have a role in a project together");
  const below = (name: string, description: string) => group.command(name).description(description);
  below("ls", "list groups").alias("list").action(run(list));
  below("show", "show a group with its members").argument("<group>", "name or id").action(run(show));
  below("create", "make a group in the present project")
    .argument("<name>")
    .option("--description <text>", "who they are")
    .addOption(new Option("--role <role>", "what its members may do; default: nothing yet").choices(roles))
    .action(run(create));
  below("add", "put users into a group")
    .argument("<group>", "name or id")
    .argument("<user...>", "names or ids")
    .action(run(add));
  below("remove", "take users out of a group")
    .argument("<group>", "name or id")
    .argument("<user...>", "names or ids")
    .action(run(remove));
  below("rm", "delete a group; its members keep what they are otherwise")
    .argument("<group>", "name or id")
    .action(run(destroy));
  return group;
}

async function list(session: Session): Promise<void> {
  const { groups } = await session.cloud();
  session.out.list(await groups.list({}, { signal: session.signal }).all(), columns);
}

async function show(session: Session, name: string): Promise<void> {
  const { groups } = await session.cloud();
  const { signal } = session;
  const found = await groups.find(name, { signal });
  const members = await groups.members(found.id, { signal });
  session.out.show({ ...found, members }, [
    ["name", found.name],
    ["id", found.id],
    ["project", found.project],
    ["role", found.spec.role ?? "none"],
    ["description", found.spec.description],
    ["members", members.map(({ username }) => username).join("\n")],
  ]);
}

async function create(session: Session, name: string, spec: CreateOptions): Promise<void> {
  const { groups } = await session.cloud();
  const made = await groups.create({ name, spec }, { signal: session.signal });
  session.out.done(`Made group ${name} (${made.id}).`, made);
}

async function add(session: Session, name: string, users: readonly string[]): Promise<void> {
  const cloud = await session.cloud();
  const { signal } = session;
  const { id } = await cloud.groups.find(name, { signal });
  const ids = await userIds(session, cloud, users);
  for (const user of ids) await cloud.groups.addMember(id, user, { signal });
  session.out.done(`${users.join(", ")}: in ${name} now.`, { group: id, users: ids });
}

async function remove(session: Session, name: string, users: readonly string[]): Promise<void> {
  const cloud = await session.cloud();
  const { signal } = session;
  const { id } = await cloud.groups.find(name, { signal });
  const ids = await userIds(session, cloud, users);
  for (const user of ids) await cloud.groups.removeMember(id, user, { signal });
  session.out.done(`${users.join(", ")}: in ${name} no more.`, { group: id, users: ids });
}

async function destroy(session: Session, name: string): Promise<void> {
  const { groups } = await session.cloud();
  const { id } = await groups.find(name, { signal: session.signal });
  await groups.delete(id, { signal: session.signal });
  session.out.done(`Deleted group ${name}.`, { id });
}

/** All of them before anything is changed: a mistyped name leaves nothing half done. */
async function userIds(session: Session, cloud: Skerry, users: readonly string[]): Promise<string[]> {
  const ids: string[] = [];
  for (const user of users) ids.push(await userId(session, cloud, user));
  return ids;
}

/** The id of a user, by name; one of another project is named by id. */
export async function userId({ signal }: Session, cloud: Skerry, user: string): Promise<string> {
  return user.startsWith("user-") ? user : (await cloud.users.find(user, { signal })).id;
}

const columns: readonly Column<Group>[] = [
  { title: "NAME", value: (r) => r.name },
  { title: "ID", value: (r) => r.id },
  { title: "ROLE", value: (r) => r.spec.role ?? "none" },
  { title: "DESCRIPTION", value: (r) => r.spec.description },
];
