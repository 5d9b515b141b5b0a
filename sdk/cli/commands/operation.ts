/** `skerry op`: ordered work, and how far it is. */
import { Command } from "commander";
import type { Operation, OperationPhase } from "../../kinds/generated.ts";
import type { Column, Field } from "../output.ts";
import type { Run } from "../session.ts";
import { formatDuration } from "../units.ts";

/** All about operations. */
export function operationCommand(run: Run): Command {
  const op = new Command("op").description("work in progress, step by step");
  op.command("ls")
    .alias("list")
    .description("list operations")
    .option("--resource <id>", "only those on this resource")
    .option("--phase <phases>", "only those in these phases, comma-separated")
    .action(
      run(async (session, options: { resource?: string; phase?: string }) => {
        const { operations } = await session.cloud();
        const phase = options.phase?.split(",") as OperationPhase[] | undefined;
        const listing = operations.list({ resource: options.resource, phase }, { signal: session.signal });
        session.out.list(await listing.all(), columns);
      }),
    );
  op.command("show")
    .description("show an operation")
    .argument("<operation>", "id")
    .action(
      run(async (session, id: string) => {
        const { operations } = await session.cloud();
        const operation = await operations.get(id, { signal: session.signal });
        session.out.show(operation, fieldsOf(operation));
      }),
    );
  return op;
}

const columns: readonly Column<Operation>[] = [
  { title: "ID", value: (r) => r.id },
  { title: "OPERATION", value: (r) => r.spec.operation },
  { title: "RESOURCE", value: (r) => r.spec.resource_id },
  { title: "PHASE", value: (r) => r.phase, phase: true },
  { title: "STEPS", value: (r) => String(r.status?.steps.length ?? 0), align: "right" },
  { title: "AGE", value: (r) => formatDuration(Date.now() - Date.parse(r.created_at)), align: "right" },
];

function fieldsOf(r: Operation): readonly Field[] {
  const { spec, status } = r;
  return [
    ["id", r.id],
    ["operation", `${spec.operation} (version ${spec.version})`],
    ["resource", `${spec.resource_kind} ${spec.resource_id}`],
    ["phase", r.phase],
    ["attempt", String(status?.attempt ?? 0)],
    ["steps", (status?.steps ?? []).map((step) => `${step.at} ${step.name} ${step.status}`).join("\n")],
    ["error", status?.error ? JSON.stringify(status.error) : ""],
    ["created", r.created_at],
    ["ended", status?.ended_at ?? ""],
  ];
}
