import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createContextValues, type ConnectRouter, type Interceptor } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import type { PullHandler } from "../migration/pull-handler.ts";
import { callerKey, type Caller } from "./caller.ts";

/** The agent's services: the same ones on the session to the control plane and on the agent's own port. */
export interface AgentServices {
  readonly routes: (router: ConnectRouter) => void;
  readonly interceptors?: Interceptor[];
  /** Serves other hosts that pull a machine's state. Absent: no machine leaves this host. */
  readonly pull?: PullHandler;
}

export type RpcRequest = IncomingMessage | Http2ServerRequest;
export type RpcHandler = (request: RpcRequest, response: ServerResponse | Http2ServerResponse) => void;

/** No message to an agent is larger: file contents and console output come in pieces. */
const readMaxBytes = 8 * 1024 * 1024;

/** Answers Connect, gRPC and gRPC-Web calls, each with its caller in the context. */
export function createRpcHandler(
  services: AgentServices,
  callerOf: (request: RpcRequest) => Caller,
): RpcHandler {
  return connectNodeAdapter({
    ...services,
    readMaxBytes,
    contextValues: (request) => createContextValues().set(callerKey, callerOf(request)),
  });
}
