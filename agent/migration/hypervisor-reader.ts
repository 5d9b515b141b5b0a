/** Reads a hypervisor's connection straight into memory of ours, where Node lets it. */
import { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { copyInto } from "./slabs.ts";

export interface Reading {
  /** Where the next bytes go; at least one. */
  readonly room: () => Buffer;
  /** So many are there. */
  readonly onBytes: (count: number) => void;
}

/** What Node's sockets are made of, as far as it is needed here; Node does not document it. */
interface Undocumented {
  _handle?: object | null;
}

/**
 * A paused socket for the connection of `accepted`, which was never read and is not to be used any more. Node reads into
 * memory it is given for sockets that dial only; from one that was accepted the handle has to be taken over. Where that
 * is not to be had, the bytes are copied.
 */
export function readInto(accepted: Duplex, reading: Reading): Duplex {
  const socket = takeOver(accepted, reading);
  if (socket) return socket;
  return accepted.on("data", (piece: Buffer) => {
    for (let at = 0; at < piece.length;) {
      const room = reading.room();
      const count = copyInto(room, 0, piece.subarray(at, at + room.length));
      at += count;
      reading.onBytes(count);
    }
  });
}

function takeOver(accepted: Duplex & Undocumented, { room, onBytes }: Reading): Socket | undefined {
  const { _handle: handle } = accepted;
  if (typeof handle !== "object" || handle === null) return undefined;
  accepted._handle = null;
  accepted.destroy(); // so that its server counts it no more
  const callback = (count: number) => {
    onBytes(count);
    return true;
  };
  const options = { handle, allowHalfOpen: true, pauseOnCreate: true, onread: { buffer: room, callback } };
  return new Socket(options);
}
