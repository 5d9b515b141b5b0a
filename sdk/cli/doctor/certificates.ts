/** The certificates of this machine's agents. */
import { toFault } from "#kernel/fault.ts";
import { findAgentCertificate, type AgentCertificate } from "../agent-home.ts";
import { formatDuration } from "../units.ts";
import { fail, ok, warn, type Finding } from "./finding.ts";

/** The certificate in an agent's home. */
export async function checkCertificate(home: string): Promise<Finding> {
  try {
    return judgeCertificate(home, await findAgentCertificate(home), Date.now());
  } catch (thrown) {
    const { message, cause } = toFault(thrown);
    const why = cause instanceof Error ? cause.message : message;
    return fail("certificate", `${home}: ${why}`, "join again: skerry host token, then skerry agent join");
  }
}

/** Renewed at a third of its life: one in its last third tells of an agent that cannot reach the cloud. */
export function judgeCertificate(
  home: string,
  certificate: AgentCertificate | undefined,
  nowMs: number,
): Finding {
  const name = "certificate";
  if (!certificate) return warn(name, `${home}: has not joined a cloud`, "skerry agent join");
  const { hostId, validFrom, validTo } = certificate;
  const left = validTo.getTime() - nowMs;
  const life = validTo.getTime() - validFrom.getTime();
  if (nowMs < validFrom.getTime()) return fail(name, `${hostId}: not valid yet`, "set this machine's clock");
  if (left < 0) {
    const ago = formatDuration(-left);
    return warn(name, `${hostId}: expired ${ago} ago`, "start the agent: it renews with its old key");
  }
  const detail = `${hostId}: valid for ${formatDuration(left)}`;
  return left < life / 3
    ? warn(name, `${detail}; renewal is overdue`, "can the agent reach the gateway? see its log")
    : ok(name, detail);
}
