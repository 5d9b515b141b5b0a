/**
 * Proves what this host's podman can do, by doing it: containers are made of the host's own programs, read-only and
 * without a network.
 */
import { stat } from "node:fs/promises";
import { Fault, isFault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";
import type { PodmanClient } from "./client.ts";

/** A step takes a second at most on a machine that is well. */
const limitMs = 30_000;
/** What a program of the host's needs to run. */
const shared = ["/bin", "/lib", "/lib64", "/usr"];

/** Runs one container to its end; gives podman's version. Throws what stood in the way. */
export async function runProbe(
  client: PodmanClient,
  rootDirectory: string,
  signal: AbortSignal,
): Promise<string> {
  const name = "skerry-probe";
  return await withTrial(client, { name, rootfs: rootDirectory }, signal, async (call) => {
    await call("POST", `/containers/${name}/start`);
    const exitCode = await call("POST", `/containers/${name}/wait`, { query: { condition: "exited" } });
    if (exitCode !== 0) {
      throw new Fault("unavailable", "a container that was run for a try failed", { reason: "PROBE_FAILED" });
    }
    const { version } = (await call("GET", "/info")) as { readonly version: { readonly Version: string } };
    return version.Version;
  });
}

/** Why podman gives no container this device; undefined: one was made that would have it. Nothing is run in it. */
export async function findRefusal(
  client: PodmanClient,
  rootDirectory: string,
  device: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  const trial = { name: "skerry-probe-device", rootfs: rootDirectory, devices: [{ path: device }] };
  try {
    await withTrial(client, trial, signal, (call) => call("POST", `/containers/${trial.name}/init`));
    return undefined;
  } catch (thrown) {
    if (isFault(thrown) && thrown.reason === "PODMAN_REFUSED") return thrown.message;
    throw thrown;
  }
}

type Call = (
  method: string,
  path: string,
  rest?: { query?: Record<string, string>; body?: unknown },
) => Promise<unknown>;

/**
 * Makes a container, has it used and removes it. A step that has begun is carried through although the signal aborts,
 * and the container removed: podman that is ended while it makes one leaves half of it running.
 */
async function withTrial<T>(
  client: PodmanClient,
  trial: { readonly name: string; readonly rootfs: string },
  signal: AbortSignal,
  use: (call: Call) => Promise<T>,
): Promise<T> {
  using limit = deadline(limitMs, "trying a container");
  const call: Call = (method, path, rest = {}) => client.call(method, path, { ...rest, signal: limit });
  const remove = () =>
    call("DELETE", `/containers/${trial.name}`, {
      query: { force: "true", timeout: "0", ignore: "true" },
    }).catch((thrown: unknown) => {
      if (!isFault(thrown, "notFound")) throw thrown;
    });
  await remove(); // what an agent that was killed left
  const mounts = await Promise.all(shared.map(toMount));
  const body = {
    ...{ ...trial, command: ["/bin/true"], netns: { nsmode: "none" } },
    mounts: mounts.filter((mount) => mount !== undefined),
    resource_limits: { memory: { limit: 64 * 1024 ** 2 }, cpu: { quota: 100_000, period: 100_000 } },
  };
  signal.throwIfAborted();
  try {
    await call("POST", "/containers/create", { body });
    signal.throwIfAborted();
    return await use(call);
  } finally {
    await remove();
  }
}

async function toMount(path: string) {
  const found = await stat(path).catch(() => undefined); // 32-bit hosts have no /lib64
  return found && { destination: path, source: path, type: "bind", options: ["bind", "ro"] };
}
