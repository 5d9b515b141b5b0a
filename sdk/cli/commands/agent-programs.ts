/** The agent's own programs, as the command line runs them: from the build, or from the sources when it does so itself. */
import { constants } from "node:fs";
import { access, rm } from "node:fs/promises";
import { join } from "node:path";
import { toFault } from "#kernel/fault.ts";
import { checkout } from "../connection.ts";
import { exec } from "../exec.ts";
import type { Session } from "../session.ts";

/** Downloads are in it; a host that gets none is not to be kept waiting for long. */
const buildLimitMs = 180_000;

/** node's arguments for running one of the agent's programs. */
export function programArguments(module: string): readonly string[] {
  return import.meta.url.endsWith(".ts")
    ? ["--conditions=development", "--import=tsx", join(checkout, `${module}.ts`)]
    : [join(checkout, "dist", `${module}.js`)];
}

/**
 * Makes the guest that is booted to prove that hardware acceleration works: without one an agent takes no host's word for
 * it. Gives its folder; undefined where there is nothing to prove, or where it cannot be made, which is said.
 */
export async function makeProbeGuest(session: Session, home: string): Promise<string | undefined> {
  const device = "/dev/kvm";
  const opens = await access(device, constants.R_OK | constants.W_OK).then(
    () => true,
    () => false, // guests are emulated then, and the agent says why
  );
  if (!opens) return undefined;
  using progress = session.progress();
  progress.update("making the guest that proves acceleration");
  const guest = join(home, "micro");
  const args = [...programArguments("agent/images/micro/build"), guest];
  try {
    await exec(process.execPath, args, { timeoutMs: buildLimitMs, signal: session.signal });
    await rm(`${guest}.packages`, { recursive: true, force: true }); // wanted once
    return guest;
  } catch (thrown) {
    session.signal.throwIfAborted();
    session.note(
      `${device} is there, but the guest that would prove it cannot be made (${toFault(thrown).message}): machines will be ` +
        `emulated. Once that is mended, set SKERRY_AGENT_PROBE_GUEST in ${join(home, "agent.env")} to a copy of another host's.`,
    );
    return undefined;
  }
}
