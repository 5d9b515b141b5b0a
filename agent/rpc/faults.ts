/** The one place where the agent's Faults become RPC errors; the control plane turns them back. */
import { ConnectError, type Interceptor } from "@connectrpc/connect";
import { toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { toRpcStatus } from "#kernel/rpc-status.ts";

/** The public part of a fault as an error that Connect, gRPC and gRPC-Web clients understand. */
export function toConnectError(thrown: unknown): ConnectError {
  if (thrown instanceof ConnectError) return thrown;
  const { code, message, metadata } = toRpcStatus(toFault(thrown));
  return new ConnectError(message, code, metadata);
}

/** Translates what handlers throw, streams included, and logs our own bugs, which callers see nothing of. */
export function faultInterceptor(log: Logger): Interceptor {
  const translate = (thrown: unknown, method: string): ConnectError => {
    if (!(thrown instanceof ConnectError) && toFault(thrown).code === "internal") {
      log.error("rpc.failed", { method, fault: thrown });
    }
    return toConnectError(thrown);
  };
  return (next) => async (request) => {
    const { name } = request.method;
    try {
      const response = await next(request);
      if (!response.stream) return response;
      return { ...response, message: translated(response.message, (thrown) => translate(thrown, name)) };
    } catch (thrown) {
      throw translate(thrown, name);
    }
  };
}

async function* translated<T>(
  messages: AsyncIterable<T>,
  translate: (thrown: unknown) => ConnectError,
): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (thrown) {
    throw translate(thrown);
  }
}
