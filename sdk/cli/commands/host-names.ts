import type { Session } from "../session.ts";
import type { HostNames } from "./vm-view.ts";

/** Names of all hosts by id, for tables; data formats carry ids and need none. */
export async function hostNames(session: Session): Promise<HostNames> {
  if (session.out.format !== "table") return new Map();
  const { hosts } = await session.cloud();
  const all = await hosts.list({}, { signal: session.signal, pageSize: 1000 }).all();
  return new Map(all.map(({ id, name }) => [id, name]));
}
