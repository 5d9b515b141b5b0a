/** `skerry audit`: who did what, and whether the record of it is whole. */
import { Command } from "commander";
import { Fault } from "#kernel/fault.ts";
import type { AuditEvent, AuditVerdict } from "../../audit.ts";
import type { Column } from "../output.ts";
import type { Run } from "../session.ts";

interface ListOptions {
  readonly user?: string;
  readonly action?: string;
  readonly since?: string;
  readonly until?: string;
}

/** All about the audit log. */
export function auditCommand(run: Run): Command {
  const audit = new Command("audit").description("who did what in the present project");
  audit
    .command("ls")
    .alias("list")
    .description("list what was done, or denied, the newest first")
    .option("--user <id>", "only by this user")
    .option("--action <action>", "only this, such as vm.create")
    .option("--since <time>", "RFC 3339 time or date")
    .option("--until <time>", "RFC 3339 time or date")
    .action(
      run(async (session, { user, action, since, until }: ListOptions) => {
        const query = { user_id: user, action, start_time: since, end_time: until };
        const cloud = await session.cloud();
        session.out.list(await cloud.audit.list(query, { signal: session.signal }), columns);
      }),
    );
  audit
    .command("verify")
    .description("check that nothing was changed or taken out")
    .action(
      run(async (session) => {
        const verdict = await (await session.cloud()).audit.verify({ signal: session.signal });
        const { intact, events, broken_at: at } = verdict;
        if (intact)
          return session.out.done(
            `${String(events)} events, each in its place and signed.${gone(verdict)}`,
            verdict,
          );
        throw new Fault("conflict", `the audit log does not hold at event ${String(at ?? events)}`, {
          reason: "AUDIT_BROKEN",
          detail: { ...verdict },
        });
      }),
    );
  return audit;
}

const gone = ({ gap }: AuditVerdict) =>
  gap ? ` The first ${String(gap.events)}, from before ${gap.until}, were taken out for their age.` : "";

const columns: readonly Column<AuditEvent>[] = [
  { title: "TIME", value: (r) => r.timestamp },
  { title: "ACTION", value: (r) => r.action },
  { title: "RESOURCE", value: (r) => r.resource_id },
  { title: "USER", value: (r) => r.username || r.user_id },
  { title: "FROM", value: (r) => r.ip_address },
  { title: "OUTCOME", value: (r) => (r.success ? "done" : (r.reason ?? "failed")) },
];
