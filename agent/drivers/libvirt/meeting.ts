/**
 * Where the two libvirts of a move meet: sockets that have the same path on both hosts, as libvirt asks for. At the
 * source, whoever carries the bytes listens behind them; at the destination, libvirt and its QEMU do.
 */
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import type { Duplex } from "node:stream";
import { dirname, basename, join } from "node:path";
import { Fault } from "#kernel/fault.ts";
import { deadline, retry } from "#kernel/retry.ts";
import { connectSocket } from "../hypervisor/files.ts";
import { link, type RuntimeFolder } from "./runtime.ts";

/** The talk between the two daemons, which is where the move is decided. */
export const daemonChannel = "libvirt";
export const memoryChannel = "memory";
export const diskChannel = "disk:root";
export const moveChannels = [daemonChannel, memoryChannel, diskChannel] as const;

/** libvirt connects its disks and its memory when it comes to them; the other side is there before it does. */
const connectLimitMs = 10_000;

export interface Meeting {
  /** The path of a channel's socket for this process, and for the daemon. */
  here(channel: string): string;
  there(channel: string): string;
}

export function meetingOf(runtime: RuntimeFolder, id: string): Meeting {
  const name = (channel: string) => join("moves", id, `${nameOf(channel)}.sock`);
  return {
    here: (channel) => join(runtime.here, name(channel)),
    there: (channel) => join(runtime.there, name(channel)),
  };
}

/** Makes the folder anew; sockets of an earlier move would be taken for those of this one. */
export async function clearMeeting(meeting: Meeting): Promise<void> {
  const folder = dirname(meeting.here(daemonChannel));
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true, mode: 0o700 });
}

/** Notes which move it is that meets here. Gone with the host's memory, as is what libvirt knows of a move. */
export async function noteMove(meeting: Meeting, migrationId: string): Promise<void> {
  await writeFile(noteOf(meeting), migrationId);
}

/** Whether this move was the last that met here. */
export async function wasMetBy(meeting: Meeting, migrationId: string): Promise<boolean> {
  try {
    return (await readFile(noteOf(meeting), "utf8")) === migrationId;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}

function noteOf(meeting: Meeting): string {
  return join(dirname(meeting.here(daemonChannel)), "migration");
}

/** Leads a channel of the source to the socket where its bytes are taken. */
export async function leadTo(meeting: Meeting, channel: string, socket: string): Promise<void> {
  await link(socket, meeting.here(channel));
}

/** Connects to a socket as soon as it is there. */
export async function connectWhenThere(path: string, signal: AbortSignal): Promise<Duplex> {
  using limit = deadline(connectLimitMs, "connecting to libvirt", signal);
  return await retry(() => connectSocket(dirname(path), basename(path), limit), {
    ...{ attempts: 1000, baseMs: 10, capMs: 200, signal: limit },
  });
}

function nameOf(channel: string): string {
  const found = moveChannels.find((one) => one === channel);
  if (found !== undefined) return found.replace("disk:", "");
  throw new Fault("notFound", `there is no channel ${JSON.stringify(channel)}`, {
    reason: "NO_SUCH_CHANNEL",
  });
}

/** The daemon's own socket, from its URI. Pure but for the environment that is passed. */
export function daemonSocket(uri: string, env: Readonly<Record<string, string | undefined>>): string {
  const { searchParams, pathname } = new URL(uri);
  const named = searchParams.get("socket");
  if (named !== null) return named;
  return pathname === "/session"
    ? join(env["XDG_RUNTIME_DIR"] ?? "/run", "libvirt", "libvirt-sock")
    : "/run/libvirt/libvirt-sock";
}

/** What the source's daemon is told to connect to: the channel, as if the destination's daemon were here. Pure. */
export function destinationUri(uri: string, socket: string): string {
  return `qemu+unix://${new URL(uri).pathname}?socket=${socket}`;
}
