/**
 * Ports of the host that lead into the guest. QEMU's list is the truth and is changed while the machine runs; the monitor
 * has no JSON command for it, so its words for people are read, and every word we send is checked before.
 */
import { createHash } from "node:crypto";
import { isIPv4 } from "node:net";
import { Fault } from "#kernel/fault.ts";
import type { PortForward } from "#gen/skerry/agent/v1/machine_pb.js";

/** A forward that is there, or is to be. */
export interface Forward {
  readonly protocol: string;
  readonly guestPort: number;
  readonly hostPort: number;
  readonly hostAddress: string;
}

/** Chosen ports lie below those that the kernel gives to outgoing connections. */
const chosenPorts = { first: 20_000, count: 12_000 };
const choices = 64;

type WantedForward = Pick<PortForward, "protocol" | "guestPort" | "hostPort" | "hostAddress">;

/** A QEMU that runs: the part of it that is needed here. */
export interface Monitor {
  execute(
    command: "human-monitor-command",
    args: { readonly "command-line": string },
    signal: AbortSignal,
  ): Promise<string>;
}

/** Makes the machine's forwards those of the spec and gives them with the ports they got. */
export async function ensureForwards(
  machine: Monitor,
  wish: {
    readonly id: string;
    readonly guestAddress: string;
    readonly wanted: readonly WantedForward[];
    /** Where they were before: a chosen port is kept when it can be. */
    readonly before: readonly Forward[];
    /** QEMU's name of the guest's network; default `net0`. */
    readonly netdev?: string;
  },
  signal: AbortSignal,
): Promise<Forward[]> {
  const wanted = wish.wanted.map(checkForward);
  const netdev = wish.netdev ?? "net0";
  const monitor = (line: string) =>
    machine.execute("human-monitor-command", { "command-line": line }, signal);
  const present = parseForwards(await monitor("info usernet"));
  const settled = wanted.map((forward) => present.find((other) => meets(other, forward)));
  for (const forward of present) {
    if (!settled.includes(forward)) await monitor(`hostfwd_remove ${netdev} ${source(forward)}`);
  }
  const result: Forward[] = [];
  for (const [index, forward] of wanted.entries()) {
    result.push(settled[index] ?? (await addForward(forward)));
  }
  return result;

  async function addForward(forward: Forward): Promise<Forward> {
    for (const hostPort of candidates(wish.id, forward, wish.before)) {
      const placed = { ...forward, hostPort };
      const target = `${wish.guestAddress}:${String(forward.guestPort)}`;
      // It is silent when it worked.
      if ((await monitor(`hostfwd_add ${netdev} ${source(placed)}-${target}`)).trim() === "") return placed;
    }
    throw new Fault("conflict", "the port is in use on the host", {
      reason: "HOST_PORT_IN_USE",
      detail: { protocol: forward.protocol, host_port: forward.hostPort },
      retryable: true,
    });
  }
}

/** Forwards in the answer to `info usernet`. Pure. */
export function parseForwards(text: string): Forward[] {
  const line = /^\s*(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+(\S+)\s+(\d+)\s+\S+\s+(\d+)\s/gm;
  return Array.from(text.matchAll(line), ([, protocol = "", address = "", hostPort, guestPort]) => ({
    protocol: protocol.toLowerCase(),
    guestPort: Number(guestPort),
    hostPort: Number(hostPort),
    hostAddress: address === "*" ? "0.0.0.0" : address,
  }));
}

function checkForward(wanted: WantedForward): Forward {
  const protocol = wanted.protocol === "" ? "tcp" : wanted.protocol;
  const hostAddress = wanted.hostAddress === "" ? "127.0.0.1" : wanted.hostAddress;
  const { guestPort, hostPort } = wanted;
  const isPort = (port: number, least: number) => Number.isInteger(port) && port >= least && port <= 65_535;
  const valid = ["tcp", "udp"].includes(protocol) && isIPv4(hostAddress) && isPort(guestPort, 1);
  if (valid && isPort(hostPort, 0)) return { protocol, guestPort, hostPort, hostAddress };
  throw new Fault("invalid", "a forward needs tcp or udp, ports, and an IPv4 address of the host", {
    reason: "FORWARD_INVALID",
    detail: { field: "forwards", protocol, guest_port: guestPort, host_port: hostPort },
  });
}

function meets(present: Forward, wanted: Forward): boolean {
  return sameEnd(present, wanted) && (wanted.hostPort === 0 || wanted.hostPort === present.hostPort);
}

function sameEnd(one: Forward, other: Forward): boolean {
  return (
    one.protocol === other.protocol &&
    one.guestPort === other.guestPort &&
    one.hostAddress === other.hostAddress
  );
}

function source({ protocol, hostAddress, hostPort }: Forward): string {
  return `${protocol}:${hostAddress}:${String(hostPort)}`;
}

/** Ports to try: the one asked for; else the one it had, then some derived from the machine. */
function* candidates(id: string, wanted: Forward, before: readonly Forward[]): Generator<number> {
  if (wanted.hostPort !== 0) {
    yield wanted.hostPort;
    return;
  }
  const last = before.find((forward) => sameEnd(forward, wanted));
  if (last) yield last.hostPort;
  const seed = createHash("sha256")
    .update(`${id} ${source(wanted)} ${String(wanted.guestPort)}`)
    .digest();
  for (let choice = 0; choice < choices; choice++) {
    yield chosenPorts.first + ((seed.readUInt32BE(0) + choice * 101) % chosenPorts.count);
  }
}
