/** Images from registries. */
import { Fault, isFault } from "#kernel/fault.ts";
import type { PodmanClient } from "./client.ts";

/** One line of podman's answer while it pulls. */
interface PullLine {
  readonly id?: string;
  readonly error?: string;
}

/** Brings an image from its registry, unless it is here; gives what podman calls it. */
export async function pullImage(
  client: PodmanClient,
  reference: string,
  signal: AbortSignal,
): Promise<string> {
  const query = { reference, policy: "missing", quiet: "true" };
  let id: string | undefined;
  try {
    for await (const line of await client.stream("POST", "/images/pull", { query, signal })) {
      const told = line as PullLine;
      if (told.error !== undefined) throw new Error(told.error);
      id = told.id ?? id;
    }
  } catch (thrown) {
    if (signal.aborted || isFault(thrown, "unavailable")) throw thrown;
    throw notPulled(reference, thrown);
  }
  if (id === undefined) throw notPulled(reference, undefined);
  return id;
}

/** A registry that cannot be reached now may be later; one that knows no such image will not. */
function notPulled(reference: string, cause: unknown): Fault {
  const text = cause instanceof Error ? cause.message : "";
  const refused = /manifest unknown|name unknown|denied|unauthorized|invalid reference/i.test(text);
  return new Fault(
    refused ? "notFound" : "unavailable",
    refused
      ? `its registry does not give out the image ${reference}`
      : `the registry of the image ${reference} cannot be reached from the host; an archive can be imported instead`,
    { reason: refused ? "IMAGE_NOT_FOUND" : "REGISTRY_UNREACHABLE", cause },
  );
}
