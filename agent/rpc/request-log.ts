/** Logs calls that are made on behalf of somebody's request, with its id, so that it can be followed from the API to the host. */
import type { Interceptor } from "@connectrpc/connect";
import type { Logger } from "#kernel/log.ts";
import { parseTraceparent, requestIdHeader, requestIdPattern, traceHeader } from "#kernel/trace.ts";

export function requestLogInterceptor(log: Logger): Interceptor {
  return (next) => async (request) => {
    const requestId = request.header.get(requestIdHeader) ?? "";
    if (requestIdPattern.test(requestId)) {
      const trace = parseTraceparent(request.header.get(traceHeader));
      log.info("rpc.request", {
        ...{ request_id: requestId, method: request.method.name },
        ...(trace && { trace_id: trace.traceId }),
      });
    }
    return next(request);
  };
}
