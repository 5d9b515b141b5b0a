import type { MessageInitShape } from "@bufbuild/protobuf";
import type { HostFactsSchema, HostLabelsSchema } from "#gen/skerry/agent/v1/host_pb.js";
import { Fault, isFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { parseEnrolmentToken, type EnrolmentToken } from "#kernel/pin.ts";
import { createControlClient } from "./control-client.ts";
import { fetchPinnedAuthority } from "./dial.ts";
import type { Identity } from "./identity.ts";
import { openControl } from "./link.ts";

export interface Enrolment {
  readonly identity: Identity;
  /** `<id>.<secret>.<pin>`, as the control plane gave it out. */
  readonly token: string;
  /** Addresses `host:port` of gateways; the first that can be reached is used. */
  readonly gateways: readonly string[];
  readonly name: string;
  readonly labels: MessageInitShape<typeof HostLabelsSchema>;
  readonly facts: MessageInitShape<typeof HostFactsSchema>;
  readonly keepAliveMs: number;
  readonly log: Logger;
}

/**
 * Joins this host to the cloud that the token is for. Safe to repeat when its outcome is unknown: the same
 * key asks again. Throws GATEWAY_UNTRUSTED, before the token has been told to anyone, when a gateway is not
 * that cloud's, and the control plane's own fault when it refuses the token.
 */
export async function enrol(enrolment: Enrolment, signal: AbortSignal): Promise<{ hostId: string }> {
  const token = parseEnrolmentToken(enrolment.token);
  let unreachable = new Fault("invalid", "no gateway is named to join at", { reason: "GATEWAY_MISSING" });
  for (const address of enrolment.gateways) {
    try {
      return await enrolAt(address, token, enrolment, signal);
    } catch (thrown) {
      if (!isFault(thrown, "unavailable") || signal.aborted) throw thrown;
      enrolment.log.warn("enrol.unavailable", { address, fault: thrown });
      unreachable = thrown;
    }
  }
  throw unreachable;
}

async function enrolAt(
  address: string,
  { id, secret, pin }: EnrolmentToken,
  { identity, name, labels, facts, keepAliveMs }: Enrolment,
  signal: AbortSignal,
): Promise<{ hostId: string }> {
  const ca = await fetchPinnedAuthority(address, pin, signal);
  const session = await openControl({ address, trust: { ca }, keepAliveMs }, signal);
  try {
    const client = createControlClient(session);
    const hostId = await identity.enrol((certificateRequest) =>
      client.enrol({ token: `${id}.${secret}`, certificateRequest, name, labels, facts }, signal),
    );
    return { hostId };
  } finally {
    session.destroy();
  }
}
