/** How a host's machines get known to an engine in the same process: as the agent's reporter would tell of them. */
import { create } from "@bufbuild/protobuf";
import type { Change } from "#agent/machines/change-feed.ts";
import type { Engine } from "#cp/engine/engine.ts";
import type { Machine } from "#gen/skerry/agent/v1/machine_pb.js";
import { type ReportRequest, ReportRequestSchema } from "#gen/skerry/control/v1/control_pb.js";
import { isFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { backoffMs, sleep } from "#kernel/retry.ts";
import type { WorldAgent } from "./engine-world.ts";

const attempts = 6;

/**
 * One report at a time; what changes meanwhile goes with the next, as the latest of each machine.
 * @param known machines that are told at once, as to a replica that a host has just connected to
 */
export function reportTo(
  engine: Engine,
  host: Pick<WorldAgent, "id" | "changes">,
  log: Logger,
  known: readonly Machine[] = [],
): Disposable {
  const untold = new Map<string, Change>();
  let telling = false;
  const tell = async () => {
    if (telling) return;
    telling = true;
    while (untold.size > 0) {
      const changes = [...untold.values()];
      untold.clear();
      const report = create(ReportRequestSchema, {
        machines: changes.flatMap((change) => ("changed" in change ? [change.changed] : [])),
        removed: changes.flatMap((change) => ("removed" in change ? [change.removed] : [])),
      });
      await deliver(engine, host.id, report).catch((error: unknown) => {
        log.debug("world.report_lost", { error });
      });
    }
    telling = false;
  };
  const hear = (change: Change) => {
    const { id, seq } = about(change);
    const before = untold.get(id);
    if (before === undefined || about(before).seq < seq) untold.set(id, change);
    void tell();
  };
  const heard = host.changes.subscribe(hear);
  for (const changed of known) hear({ changed });
  return heard;
}

/** What was not heard is told again, a few times. */
async function deliver(engine: Engine, hostId: string, report: ReportRequest): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      await engine.reports.report(hostId, report);
      return;
    } catch (fault) {
      if (attempt + 1 >= attempts || !isFault(fault, "unavailable")) throw fault;
      await sleep(backoffMs(attempt, { baseMs: 10, capMs: 50 }));
    }
  }
}

function about(change: Change): { readonly id: string; readonly seq: bigint } {
  return "changed" in change ? change.changed : change.removed;
}
