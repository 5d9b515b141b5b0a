/**
 * Pure: an instance whose host is lost. It starts elsewhere only if its owner wants that *and* the host has agreed to the very
 * terms that hold now, for an agent that never heard of them does not stop the machine when its lease ends; or if an operator
 * is certain that the host is dead.
 */
import type { Decision, Incarnation, View } from "../../engine/controller.ts";
import type { Instance, InstanceSpec } from "./instance.resource.ts";

const lookAgainMs = 30_000;

/** What a host is asked to agree to; 0: the machine runs with or without a lease. */
export function leaseTermsOf(spec: Pick<InstanceSpec, "on_host_loss" | "on_host_loss_changes">): number {
  return spec.on_host_loss === "restart_elsewhere" ? spec.on_host_loss_changes + 1 : 0;
}

/** Nothing of it runs on its host, and nothing will. */
export function mayLeaveLost({ resource, incarnations, hostLost, hostDead }: View<Instance>): boolean {
  const terms = leaseTermsOf(resource.desired);
  const owner = incarnations.find(({ hostId }) => hostId === resource.hostId);
  return hostLost === true && terms > 0 && (hostDead === true || agreedTerms(owner) === terms);
}

function agreedTerms(incarnation: Incarnation | undefined): unknown {
  return incarnation?.observed["lease_terms"];
}

/** Undefined: its host is not lost. */
export function decideLost(view: View<Instance>, now: number): Decision | undefined {
  const { desired } = view.resource;
  if (!view.hostLost) return undefined;
  if (mayLeaveLost(view) && desired.power === "on") return { do: "act", action: "restartElsewhere" };
  const waits = desired.on_host_loss === "wait" || desired.power === "off";
  const message = waits
    ? "its host is lost; it waits for it, and its disk is there"
    : "its host is lost before it had agreed to let it go; it waits for it";
  return { do: "wait", until: now + lookAgainMs, why: message, problem: { reason: "HOST_LOST", message } };
}
