/**
 * The connections to a gateway. One lasts: the agent dials it and serves the control plane on it, which also takes the
 * reports there. For its few calls of the control plane the agent opens another and closes it afterwards.
 */
import http2, { type ClientHttp2Session, type Http2Server, type ServerHttp2Session } from "node:http2";
import { once } from "node:events";
import { setImmediate } from "node:timers/promises";
import { Fault } from "#kernel/fault.ts";
import { abortSession, keepAlive } from "#kernel/keep-alive.ts";
import { deadline } from "#kernel/retry.ts";
import { gatewayAuthority } from "./control-client.ts";
import { agentProtocol, dialGateway, type Trust } from "./dial.ts";
import { readRefusal } from "./refusal.ts";

export interface LinkOptions {
  readonly address: string;
  readonly trust: Trust;
  /** Serves the agent's services on the connection that is turned round. */
  readonly server: Http2Server;
  /** A connection on which nothing was received for this long is dead. */
  readonly keepAliveMs: number;
}

/** How long the gateway may take to decide whether this host is welcome. */
const admissionTimeoutMs = 20_000;
/** How much of a file may be under way: at 64 KiB, HTTP/2's default, a distant gateway would be slow. */
const windowBytes = 4 * 1024 * 1024;

export class GatewayLink implements Disposable {
  readonly address: string;
  readonly #served: ServerHttp2Session;
  /** Resolves when the connection has ended, with the reason. */
  readonly ended: Promise<Fault>;

  private constructor(served: ServerHttp2Session, address: string) {
    this.address = address;
    this.#served = served;
    this.ended = new Promise((resolve) => {
      served.once("goaway", (_code: number, _lastStream: number, data: Buffer | undefined) => {
        resolve(readDismissal(data) ?? lost(address));
      });
      served.once("close", () => resolve(lost(address)));
    });
    void this.ended.then(() => this[Symbol.dispose]());
  }

  /** Dials and waits until the gateway has let this host in. Throws its refusal. */
  static async open(options: LinkOptions, signal: AbortSignal): Promise<GatewayLink> {
    const link = new GatewayLink(await serve(options, signal), options.address);
    try {
      const refusal = await Promise.race([admission(link.#served, signal), link.ended]);
      if (refusal) throw refusal;
      return link;
    } catch (thrown) {
      link[Symbol.dispose]();
      throw thrown;
    }
  }

  [Symbol.dispose](): void {
    abortSession(this.#served, "the link has ended");
  }
}

/** Opens a connection for calls to the gateway. */
export async function openControl(
  options: Omit<LinkOptions, "server">,
  signal: AbortSignal,
): Promise<ClientHttp2Session> {
  const socket = await dialGateway(options.address, "h2", options.trust, signal);
  const session = http2.connect(gatewayAuthority, {
    createConnection: () => socket,
    settings: { initialWindowSize: windowBytes },
  });
  session.on("error", () => undefined); // it closes as well, and that is what is acted upon
  session.once("connect", () => {
    session.setLocalWindowSize(windowBytes);
  });
  keepAlive(session, options.keepAliveMs);
  return session;
}

async function serve(
  { address, trust, server, keepAliveMs }: LinkOptions,
  signal: AbortSignal,
): Promise<ServerHttp2Session> {
  const socket = await dialGateway(address, agentProtocol, trust, signal);
  const opened = once(server, "session") as Promise<[ServerHttp2Session]>;
  server.emit("connection", socket);
  const [session] = await opened;
  session.on("error", () => undefined); // it closes as well, and that is what is acted upon
  keepAlive(session, keepAliveMs);
  return session;
}

/** The gateway's first frames say that it has let us in, or are followed at once by its refusal. */
async function admission(served: ServerHttp2Session, signal: AbortSignal): Promise<undefined> {
  using limit = deadline(admissionTimeoutMs, "the gateway's answer", signal);
  await once(served, "remoteSettings", { signal: limit }).catch((thrown: unknown) => {
    throw limit.reason instanceof Fault ? limit.reason : thrown;
  });
  await setImmediate();
}

function lost(address: string): Fault {
  return new Fault("unavailable", `the connection to the gateway at ${address} was lost`, {
    reason: "CONNECTION_LOST",
  });
}

/** Why the gateway ended the session: it says so in the GOAWAY frame as `{"code","reason","message"}`. */
function readDismissal(data: Buffer | undefined): Fault | undefined {
  try {
    return readRefusal(JSON.parse(data?.toString("utf8") ?? "") as Record<string, unknown>);
  } catch {
    return undefined; // an ordinary GOAWAY
  }
}
