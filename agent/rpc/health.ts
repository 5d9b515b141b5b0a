import { EventEmitter, on } from "node:events";
import type { DescService } from "@bufbuild/protobuf";
import type { ConnectRouter, ServiceImpl } from "@connectrpc/connect";
import { Health, HealthCheckResponse_ServingStatus as ServingStatus } from "#gen/grpc/health/v1/health_pb.js";
import { Fault } from "#kernel/fault.ts";
import { requireOperator } from "./caller.ts";

/** The agent's health as gRPC's probes ask for it: all its services are up or down together. */
export class HealthState {
  readonly #changes = new EventEmitter().setMaxListeners(0);
  #serving = true;

  get serving(): boolean {
    return this.#serving;
  }

  /** False while the agent shuts down. */
  set serving(serving: boolean) {
    this.#serving = serving;
    this.#changes.emit("change");
  }

  /** Yields after each change, until the signal aborts. */
  async *changes(signal: AbortSignal): AsyncIterable<void> {
    try {
      for await (const _ of on(this.#changes, "change", { signal })) yield;
    } catch (thrown) {
      if (!signal.aborted) throw thrown;
    }
  }
}

/** Serves `grpc.health.v1` for these services and, under the empty name, for the whole agent. */
export function healthRoutes(services: readonly DescService[], state: HealthState) {
  const names = new Set(["", ...services.map((service) => service.typeName)]);
  const status = () => (state.serving ? ServingStatus.SERVING : ServingStatus.NOT_SERVING);
  const implementation: ServiceImpl<typeof Health> = {
    check({ service }, context) {
      requireOperator(context);
      if (names.has(service)) return { status: status() };
      throw new Fault("notFound", "there is no such service here", { reason: "SERVICE_UNKNOWN" });
    },
    async *watch({ service }, context) {
      requireOperator(context);
      const { signal } = context;
      const known = names.has(service);
      yield { status: known ? status() : ServingStatus.SERVICE_UNKNOWN };
      for await (const _ of state.changes(signal)) if (known) yield { status: status() };
    },
  };
  return (router: ConnectRouter): ConnectRouter => router.service(Health, implementation);
}
