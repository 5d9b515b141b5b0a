import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { fromRpcStatus, toRpcStatus } from "#kernel/rpc-status.ts";

/** What a call to an agent failed with, as the fault that the agent threw or as what cut the call off. */
export function fromConnectError(thrown: unknown, cutOffReason: string): Fault {
  if (thrown instanceof Fault) return thrown;
  const error = ConnectError.from(thrown, Code.Unavailable);
  // The transport wraps what it is thrown on the way, such as "there is no connection".
  if (error.cause instanceof Fault) return error.cause;
  return fromRpcStatus(
    { code: error.code, message: error.rawMessage, metadata: error.metadata },
    cutOffReason,
    error,
  );
}

/** Lets handlers throw Faults. What is not one is our bug: it is logged, and the caller learns nothing of it. */
export function faultInterceptor(log: Logger): Interceptor {
  const translate = (thrown: unknown, method: string): ConnectError => {
    if (thrown instanceof ConnectError) return thrown;
    const fault = toFault(thrown);
    if (fault.code === "internal") log.error("gateway.handler-failed", { method, fault });
    const { code, message, metadata } = toRpcStatus(fault);
    return new ConnectError(message, code, metadata, undefined, thrown);
  };
  return (next) => async (request) => {
    try {
      const response = await next(request);
      if (!response.stream) return response;
      return { ...response, message: translated(response.message, (e) => translate(e, request.method.name)) };
    } catch (thrown) {
      throw translate(thrown, request.method.name);
    }
  };
}

async function* translated<T>(
  source: AsyncIterable<T>,
  translate: (thrown: unknown) => Error,
): AsyncIterable<T> {
  try {
    yield* source;
  } catch (thrown) {
    throw translate(thrown);
  }
}
