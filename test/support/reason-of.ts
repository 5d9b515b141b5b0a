import { toFault } from "#kernel/fault.ts";

/** The reason of the Fault that the work ends in; undefined when it succeeds. */
export async function reasonOf(work: Promise<unknown> | (() => unknown)): Promise<string | undefined> {
  try {
    await (typeof work === "function" ? work() : work);
    return undefined;
  } catch (thrown) {
    const fault = toFault(thrown);
    if (fault.code === "internal" && fault.cause instanceof Error) throw fault.cause;
    return fault.reason;
  }
}
