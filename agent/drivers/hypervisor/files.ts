/** Where a machine's things are: all in its own folder, sockets included. */
import { open } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { Fault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";

export interface MachineFiles {
  readonly directory: string;
  readonly rootDisk: string;
  readonly seed: string;
  readonly consoleLog: string;
  /** QEMU's own complaints. */
  readonly qemuLog: string;
  readonly pidFile: string;
  readonly record: string;
}

export function machineFiles(directory: string): MachineFiles {
  return {
    directory,
    rootDisk: join(directory, "root.qcow2"),
    seed: join(directory, "seed.iso"),
    consoleLog: join(directory, consoleLogName),
    qemuLog: join(directory, "qemu.log"),
    pidFile: join(directory, "qemu.pid"),
    record: join(directory, "qemu.json"),
  };
}

export const consoleLogName = "console.log";
export const serialSocketName = "serial.sock";
/** A monitor serves one client: the second is for an agent that starts while the last one still holds the first. */
export const monitorSocketNames = ["monitor.sock", "monitor-spare.sock"] as const;

/**
 * Connects to a socket in a machine's folder. The path of a Unix socket may have 107 bytes, which folders easily pass;
 * so QEMU binds relative to its working directory, and we name the folder by a descriptor.
 */
export async function connectSocket(directory: string, name: string, signal: AbortSignal): Promise<Socket> {
  const socket = await connectWithin(directory, name, signal);
  if (socket.destroyed) throw unreachable(socket.errored ?? undefined);
  return socket;
}

async function connectWithin(directory: string, name: string, signal: AbortSignal): Promise<Socket> {
  await using folder = await open(directory, "r");
  using limit = deadline(5000, "connecting to the machine", signal);
  return await new Promise<Socket>((resolve, reject) => {
    const socket = connect(`/proc/self/fd/${String(folder.fd)}/${name}`);
    const aborted = () => socket.destroy(limit.reason as Error);
    limit.addEventListener("abort", aborted, { once: true });
    // It stays: a hypervisor may die before whoever is given the socket listens, and nothing unheard must end the agent.
    socket.on("error", (cause) => reject(cause instanceof Fault ? cause : unreachable(cause)));
    socket.once("connect", () => {
      limit.removeEventListener("abort", aborted);
      resolve(socket);
    });
  });
}

function unreachable(cause: Error | undefined): Fault {
  return new Fault("unavailable", "the machine cannot be reached", { reason: "MACHINE_UNREACHABLE", cause });
}
