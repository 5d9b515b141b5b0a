import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { Fault, toFault } from "#kernel/fault.ts";
import type { AttachRequest, ConsoleService } from "#gen/skerry/agent/v1/console_pb.js";
import type { Consoles } from "../machines/console.ts";
import { requireOperator } from "./caller.ts";

const defaultLimit = 64 * 1024;
const largestLimit = 1024 * 1024;

/** Serial consoles. Operators may type: whoever has a host's certificate could do so on the host. */
export function consoleService(consoles: Consoles): ServiceImpl<typeof ConsoleService> {
  return {
    async *attach(requests, context) {
      requireOperator(context);
      const input = requests[Symbol.asyncIterator]();
      const first = await input.next();
      if (first.done || first.value.message.case !== "open") throw notOpened();
      const { machineId, offset } = first.value.message.value;
      const typing = new AbortController();
      const signal = AbortSignal.any([context.signal, typing.signal]);
      type(consoles, machineId, input, context).catch((thrown: unknown) => typing.abort(thrown));
      for await (const chunk of consoles.follow(machineId, Number(offset), signal)) {
        yield { output: chunk.output, offset: BigInt(chunk.offset) };
      }
      if (typing.signal.aborted) throw toFault(typing.signal.reason);
    },

    async readLog({ machineId, offset, limit }, context) {
      requireOperator(context);
      const chunk = await consoles.read(
        machineId,
        Number(offset),
        Math.min(limit || defaultLimit, largestLimit),
      );
      return { output: chunk.output, offset: BigInt(chunk.offset), endOffset: BigInt(chunk.endOffset) };
    },
  };
}

/** Passes on what a client types. When it closes its side it goes on reading. */
async function type(
  consoles: Consoles,
  machineId: string,
  input: AsyncIterator<AttachRequest>,
  context: HandlerContext,
): Promise<void> {
  using typist = consoles.join(machineId);
  while (!context.signal.aborted) {
    const next = await input.next();
    if (next.done) return;
    const { message } = next.value;
    if (message.case !== "input") throw notOpened();
    await typist.write(message.value);
  }
}

function notOpened(): Fault {
  return new Fault("invalid", "a console is opened once, by the first message", {
    reason: "CONSOLE_PROTOCOL",
  });
}
