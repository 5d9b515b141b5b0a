/** A coding thread: does one task after the other and answers each. */
import { parentPort, type TransferListItem } from "node:worker_threads";
import { toFault } from "#kernel/fault.ts";
import { PageSets } from "../pages/page-sets.ts";
import { buildPageTable } from "../pages/table.ts";
import { Codecs } from "./codecs.ts";
import { decodeFrame, encodeBlock } from "./stages.ts";
import type { Answer, Results, Task } from "./tasks.ts";

const codecs = new Codecs();
const pageSets = new PageSets();

async function perform(task: Task): Promise<Results[keyof Results]> {
  switch (task.type) {
    case "encode":
      return encodeBlock(task, codecs, pageSets.find(task.pageSet));
    case "decode":
      return decodeFrame(task, codecs, pageSets.find(task.pageSet));
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

function answer(message: Answer): void {
  const transfer: TransferListItem[] = [];
  const result = "result" in message ? message.result : null;
  if (result instanceof Uint8Array) transfer.push(result.buffer as ArrayBuffer);
  else if (result && "parts" in result)
    transfer.push(...result.parts.map((part) => part.buffer as ArrayBuffer));
  parentPort?.postMessage(message, [...new Set(transfer)]);
}

parentPort?.on("message", ({ id, task }: { readonly id: number; readonly task: Task }) => {
  perform(task).then(
    (result) => answer({ id, result }),
    (thrown: unknown) => {
      const { code, reason, message, retryable, cause } = toFault(thrown);
      const why = cause instanceof Error ? (cause.stack ?? cause.message) : "";
      answer({ id, fault: { code, reason, message, retryable, cause: why } });
    },
  );
});
