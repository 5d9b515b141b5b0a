/** A coding thread: does one task after the other and answers each. */
import { parentPort } from "node:worker_threads";
import { toFault } from "#kernel/fault.ts";
import { PageSets } from "../pages/page-sets.ts";
import { buildPageTable } from "../pages/table.ts";
import { Stages } from "./stages.ts";
import type { Answer, Results, Task } from "./tasks.ts";

const stages = new Stages();
const pageSets = new PageSets();

async function perform(task: Task): Promise<Results[keyof Results]> {
  switch (task.type) {
    case "encode":
      return stages.encode(task, pageSets.find(task.pageSet));
    case "decode":
      return stages.decode(task, pageSets.find(task.pageSet));
    case "close-stream":
      stages.codecs.long.close(task.stream);
      return null;
    case "open-pages":
      pageSets.open(task);
      return null;
    case "close-pages":
      pageSets.close(task.pageSet);
      return null;
    case "index":
      return await buildPageTable(task.files);
  }
}

parentPort?.on("message", ({ id, task }: { readonly id: number; readonly task: Task }) => {
  perform(task).then(
    (result) => parentPort?.postMessage({ id, result } satisfies Answer),
    (thrown: unknown) => {
      const { code, reason, message, retryable, cause } = toFault(thrown);
      const why = cause instanceof Error ? (cause.stack ?? cause.message) : "";
      const fault = { code, reason, message, retryable, cause: why };
      parentPort?.postMessage({ id, fault } satisfies Answer);
    },
  );
});
