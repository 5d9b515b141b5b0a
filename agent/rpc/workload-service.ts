import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type { WorkloadService } from "#gen/skerry/agent/v1/workload_pb.js";
import { logPathOf } from "../containers/driver.ts";
import { readLog } from "../containers/log.ts";
import type { MachineManager } from "../machines/manager.ts";
import { requireOperator } from "./caller.ts";

export interface WorkloadServiceDeps {
  readonly manager: Pick<MachineManager, "get">;
  readonly directoryOf: (id: string) => string;
}

const defaultLines = 100;
const mostLines = 1000;

/** What only containers have; they are commanded as machines. */
export function workloadService({
  manager,
  directoryOf,
}: WorkloadServiceDeps): ServiceImpl<typeof WorkloadService> {
  return {
    async readWorkloadLog({ workloadId, lines }, context) {
      requireOperator(context);
      const { id } = manager.get(workloadId);
      const found = await readLog(logPathOf(directoryOf(id)), Math.min(lines || defaultLines, mostLines));
      return { lines: found.map(({ at, stream, text }) => ({ at: timestampFromDate(at), stream, text })) };
    },
  };
}
