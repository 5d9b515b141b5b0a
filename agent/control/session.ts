/**
 * Keeps this host connected to its cloud for as long as the agent runs: dials a gateway, serves the agent's
 * services on the connection, renews the certificate in time, and dials again, for ever, when the connection
 * ends. What it is doing and why it is not connected is in `state`.
 */
import http2 from "node:http2";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { backoffMs, sleep, type BackoffOptions } from "#kernel/retry.ts";
import { ReportService } from "#gen/skerry/control/v1/control_pb.js";
import { createRpcHandler, type AgentServices } from "../rpc/handler.ts";
import { refusePull, routePulls } from "../rpc/pulls.ts";
import { createControlClient, type ControlClient } from "./control-client.ts";
import type { Identity } from "./identity.ts";
import { GatewayLink, openControl } from "./link.ts";
import { ReportChannel } from "./report-channel.ts";

export interface ControlSessionOptions {
  readonly identity: Identity;
  /** Addresses `host:port` of gateways of the same cloud; tried in turn. */
  readonly gateways: readonly string[];
  readonly services: AgentServices;
  /** A connection on which nothing was received for this long is dead. */
  readonly keepAliveMs: number;
  readonly log: Logger;
  readonly reconnect?: BackoffOptions;
  /** True while guests of this host depend on the control plane's being heard: then it is dialled more often. */
  readonly isUrgent?: () => boolean;
}

export type SessionState =
  | { readonly status: "connecting"; readonly address: string }
  | { readonly status: "connected"; readonly address: string; readonly since: Date }
  /** Not connected because of `fault`; tries again at `until`. */
  | { readonly status: "waiting"; readonly fault: Fault; readonly attempt: number; readonly until: Date }
  | { readonly status: "stopped" };

/** The host that a relayed pull is for, as the control plane has verified it. */
const peerHostHeader = "skerry-peer-host";
const defaultReconnect = { baseMs: 1000, capMs: 30_000 };
const urgentCapMs = 1_500;
/** A connection that lasted for so long was a good one, and the next may be tried for at once. */
const steadyMs = 5_000;
/** Pause between attempts to renew while the certificate is still good. */
const renewalRetry = { baseMs: 60_000, capMs: 3_600_000 };
/** Timers cannot be set further than 24 days ahead, and clocks are changed: look again now and then. */
const renewalCheckMs = 3_600_000;

export class ControlSession {
  readonly #reports = new ReportChannel();
  readonly #options: ControlSessionOptions;
  readonly #server: http2.Http2Server;
  readonly #listeners = new Set<(state: SessionState) => void>();
  #state: SessionState = { status: "stopped" };
  #link: GatewayLink | undefined;

  constructor(options: ControlSessionOptions) {
    this.#options = options;
    const { services } = options;
    const routes: AgentServices["routes"] = (router) => {
      services.routes(router);
      router.service(ReportService, this.#reports.service());
    };
    this.#server = http2.createServer(createRpcHandler({ ...services, routes }, () => "control-plane"));
    const { pull } = services;
    if (pull) {
      // Passed on for another host; only here, where nobody but the control plane can speak, is its word enough.
      routePulls(this.#server, (stream, headers) => {
        const peer = headers[peerHostHeader];
        if (typeof peer === "string") pull(stream, headers, peer);
        else refusePull(stream);
      });
    }
  }

  get state(): SessionState {
    return this.#state;
  }

  /** Calls back after each change of state. */
  onState(listener: (state: SessionState) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  /** Tells the control plane; gives its answer. Throws GATEWAY_NOT_CONNECTED while it is away. */
  async report(...[report, signal]: Parameters<ReportChannel["send"]>): ReturnType<ReportChannel["send"]> {
    this.#present();
    return await this.#reports.send(report, signal);
  }

  /** The bytes of an uploaded file from `offset` on. Throws GATEWAY_NOT_CONNECTED while the control plane is away. */
  async *fetchFile(sha256: string, offset: number, signal: AbortSignal): AsyncIterable<Uint8Array> {
    using call = await this.#call(this.#present().address, signal);
    yield* call.client.fetchFile(sha256, offset, signal);
  }

  #present(): GatewayLink {
    if (this.#link) return this.#link;
    throw new Fault("unavailable", "the control plane is not connected", {
      reason: "GATEWAY_NOT_CONNECTED",
    });
  }

  /** A connection for what is rarely called, or takes long: until it is disposed of. */
  async #call(
    address: string,
    signal: AbortSignal,
  ): Promise<Disposable & { readonly client: ControlClient }> {
    const { identity, keepAliveMs } = this.#options;
    const session = await openControl({ address, trust: identity.trust, keepAliveMs }, signal);
    return { client: createControlClient(session), [Symbol.dispose]: () => session.destroy() };
  }

  /** Stays connected until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { gateways, log, reconnect = defaultReconnect } = this.#options;
    let fault: Fault | undefined;
    for (let turn = 0, attempt = 0; !signal.aborted; turn++) {
      const address = gateways[turn % gateways.length] ?? "";
      const startedAt = performance.now();
      try {
        fault = await this.#connect(address, fault, signal);
      } catch (thrown) {
        fault = toFault(thrown);
      }
      if (signal.aborted) break;
      // Only a connection that lasted starts the count afresh: one that is refused or replaced at once does not.
      if (performance.now() - startedAt > Math.min(steadyMs, reconnect.capMs)) attempt = 0;
      const capMs = this.#options.isUrgent?.() ? Math.min(urgentCapMs, reconnect.capMs) : reconnect.capMs;
      const waitMs = backoffMs(attempt, { ...reconnect, capMs });
      attempt++;
      log.warn("session.ended", { address, attempt, waitMs, fault });
      this.#setState({ status: "waiting", fault, attempt, until: new Date(Date.now() + waitMs) });
      await sleep(waitMs, signal).catch(() => undefined); // the loop looks at the signal
    }
    this.#setState({ status: "stopped" });
  }

  /** Connects and stays so; gives the reason why it ended. */
  async #connect(address: string, before: Fault | undefined, signal: AbortSignal): Promise<Fault> {
    const { identity, keepAliveMs, log } = this.#options;
    this.#setState({ status: "connecting", address });
    // Good for its own renewal and nothing else. Our clock and the gateway's may differ: its word counts as well.
    if (identity.expired || before?.reason === "CERTIFICATE_EXPIRED") await this.#renew(address, signal);
    const { trust } = identity;
    using link = await GatewayLink.open({ address, trust, server: this.#server, keepAliveMs }, signal);
    const stop = () => link[Symbol.dispose]();
    signal.addEventListener("abort", stop, { once: true });
    this.#link = link;
    this.#setState({ status: "connected", address, since: new Date() });
    log.info("session.connected", { address, hostId: identity.hostId });
    const ended = new AbortController();
    const renewing = this.#keepRenewed(address, ended.signal);
    try {
      return await link.ended;
    } finally {
      signal.removeEventListener("abort", stop);
      this.#link = undefined;
      this.#reports.fail(await link.ended);
      ended.abort();
      await renewing;
    }
  }

  async #renew(address: string, signal: AbortSignal): Promise<void> {
    using call = await this.#call(address, signal);
    await this.#options.identity.renew((request) => call.client.renew(request, signal));
  }

  /** Renews the certificate when that is due; failures are repeated long before it expires. */
  async #keepRenewed(address: string, signal: AbortSignal): Promise<void> {
    const { identity, log } = this.#options;
    let waitMs = identity.renewalInMs;
    for (let attempt = 0; ;) {
      await sleep(Math.min(waitMs, renewalCheckMs), signal).catch(() => undefined); // told by the signal below
      if (signal.aborted) return;
      waitMs = identity.renewalInMs;
      if (waitMs > 0) continue;
      try {
        await this.#renew(address, signal);
        log.info("identity.renewed", { expiresAt: identity.status.expiresAt });
        attempt = 0;
      } catch (thrown) {
        attempt++;
        log.warn("identity.not-renewed", { attempt, fault: toFault(thrown) });
      }
      // After success, too: with a clock far ahead, a new certificate is due at once, for ever.
      waitMs = backoffMs(attempt, renewalRetry);
    }
  }

  #setState(state: SessionState): void {
    this.#state = state;
    for (const listener of this.#listeners) listener(state);
  }
}
