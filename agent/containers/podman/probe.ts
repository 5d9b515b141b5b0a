/** Proves that this host runs containers: one is run, made of the host's own programs, read-only and without a network. */
import { stat } from "node:fs/promises";
import { Fault, isFault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";
import type { PodmanClient } from "./client.ts";

const name = "skerry-probe";
/** A step takes a second at most on a machine that is well. */
const limitMs = 30_000;
/** What a program of the host's needs to run. */
const shared = ["/bin", "/lib", "/lib64", "/usr"];

/**
 * Runs one container to its end; gives podman's version. Throws what stood in the way. A step that has begun is carried
 * through although the signal aborts, and the container removed: podman that is ended while it makes one leaves half of
 * it running.
 */
export async function runProbe(
  client: PodmanClient,
  rootDirectory: string,
  signal: AbortSignal,
): Promise<string> {
  using limit = deadline(limitMs, "trying a container");
  const call = (
    method: string,
    path: string,
    rest: { query?: Record<string, string>; body?: unknown } = {},
  ) => client.call(method, path, { ...rest, signal: limit });
  const remove = () =>
    call("DELETE", `/containers/${name}`, { query: { force: "true", timeout: "0", ignore: "true" } }).catch(
      (thrown: unknown) => {
        if (!isFault(thrown, "notFound")) throw thrown;
      },
    );
  await remove(); // what an agent that was killed left
  const mounts = await Promise.all(shared.map(toMount));
  const body = {
    ...{ name, rootfs: rootDirectory, command: ["/bin/true"], netns: { nsmode: "none" } },
    mounts: mounts.filter((mount) => mount !== undefined),
    resource_limits: { memory: { limit: 64 * 1024 ** 2 }, cpu: { quota: 100_000, period: 100_000 } },
  };
  signal.throwIfAborted();
  try {
    await call("POST", "/containers/create", { body });
    signal.throwIfAborted();
    await call("POST", `/containers/${name}/start`);
    const exitCode = await call("POST", `/containers/${name}/wait`, { query: { condition: "exited" } });
    if (exitCode !== 0) {
      throw new Fault("unavailable", "a container that was run for a try failed", { reason: "PROBE_FAILED" });
    }
  } finally {
    await remove();
  }
  const { version } = (await call("GET", "/info")) as { readonly version: { readonly Version: string } };
  return version.Version;
}

async function toMount(path: string) {
  const found = await stat(path).catch(() => undefined); // 32-bit hosts have no /lib64
  return found && { destination: path, source: path, type: "bind", options: ["bind", "ro"] };
}
