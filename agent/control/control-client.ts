import type { ClientHttp2Session } from "node:http2";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import {
  ControlService,
  type EnrolRequestSchema,
  type EnrolResponse,
} from "#gen/skerry/control/v1/control_pb.js";
import { Fault } from "#kernel/fault.ts";
import { fromRpcStatus } from "#kernel/rpc-status.ts";
import { manageSession } from "#kernel/session-manager.ts";
import type { IssuedCertificate } from "./identity.ts";

/** The URL's host is a word only: the session is connected already. */
export const gatewayAuthority = "https://gateway";

/** What the agent asks of the control plane by calling it. Throws Faults; GATEWAY_NOT_CONNECTED when it is away. */
export interface ControlClient {
  /** The bytes of an uploaded file from `offset` on. */
  fetchFile(sha256: string, offset: number, signal: AbortSignal): AsyncIterable<Uint8Array>;
  enrol(request: MessageInitShape<typeof EnrolRequestSchema>, signal: AbortSignal): Promise<EnrolResponse>;
  renew(certificateRequest: string, signal: AbortSignal): Promise<IssuedCertificate>;
}

const callTimeoutMs = 30_000;
const cutOff = "GATEWAY_NOT_CONNECTED";

/** A client over a session that somebody else keeps. */
export function createControlClient(session: ClientHttp2Session): ControlClient {
  const transport = createConnectTransport({
    baseUrl: gatewayAuthority,
    httpVersion: "2",
    acceptCompression: [],
    sessionManager: manageSession(gatewayAuthority, () => session),
  });
  const client = createClient(ControlService, transport);
  const limits = (signal: AbortSignal) => ({ signal, timeoutMs: callTimeoutMs });
  return {
    enrol: (request, signal) => client.enrol(request, limits(signal)).catch(rethrow),
    renew: (certificateRequest, signal) =>
      client.renew({ certificateRequest }, limits(signal)).catch(rethrow),
    async *fetchFile(sha256, offset, signal) {
      try {
        for await (const { data } of client.fetchFile({ sha256, offset: BigInt(offset) }, { signal }))
          yield data;
      } catch (thrown) {
        rethrow(thrown);
      }
    },
  };
}

function rethrow(thrown: unknown): never {
  const error = ConnectError.from(thrown, Code.Unavailable);
  // The transport wraps what it is thrown on the way, such as "there is no connection".
  if (error.cause instanceof Fault) throw error.cause;
  throw fromRpcStatus(
    { code: error.code, message: error.rawMessage, metadata: error.metadata },
    cutOff,
    error,
  );
}
