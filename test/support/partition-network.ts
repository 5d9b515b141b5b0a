/**
 * Hosts in network namespaces of their own, on one bridge to which this computer belongs too, and lines between them
 * that can be cut one way or both. Needs root. All is gone when the test has ended; each run has its own names, and
 * addresses from the range that is set aside for measuring networks.
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import type { AgentProgram } from "./cloud.ts";
import type { Teardown } from "./postgres.ts";

const run = promisify(execFile);

/** Which packets of a host are lost: those that it sends, those for it, or both. */
export type Direction = "out" | "in" | "both";

export class PartitionNetwork {
  /** Of this computer, where the control plane is. */
  readonly address: string;
  readonly #id = String(process.pid);
  readonly #third = String(process.pid % 200);
  readonly #hosts: string[] = [];

  private constructor() {
    this.address = `198.19.${this.#third}.1`;
  }

  static async open(t: Teardown): Promise<PartitionNetwork> {
    const network = new PartitionNetwork();
    t.teardown(() => network.#close());
    await run("ip", ["link", "add", network.#bridge, "type", "bridge"]);
    await run("ip", ["address", "add", `${network.address}/24`, "dev", network.#bridge]);
    await run("ip", ["link", "set", network.#bridge, "up"]);
    return network;
  }

  /** Gives the host a namespace and a line. */
  async addHost(name: string): Promise<void> {
    const index = this.#hosts.push(name);
    const [space, here] = [this.#space(name), `skp${this.#id}.${String(index)}`];
    await run("ip", ["netns", "add", space]);
    await run("ip", ["link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", space]);
    await run("ip", ["link", "set", here, "master", this.#bridge, "up"]);
    await run("ip", ["-n", space, "address", "add", `${this.addressOf(name)}/24`, "dev", "eth0"]);
    for (const device of ["lo", "eth0"]) await run("ip", ["-n", space, "link", "set", device, "up"]);
  }

  addressOf(name: string): string {
    return `198.19.${this.#third}.${String(this.#hosts.indexOf(name) + 2)}`;
  }

  /** The agent's program, on its host. */
  place(name: string, gatewayPort: number, { argv, env }: AgentProgram): AgentProgram {
    return {
      argv: ["nsenter", `--net=/run/netns/${this.#space(name)}`, "--", ...argv],
      env: {
        ...env,
        SKERRY_AGENT_LISTEN_HOST: this.addressOf(name),
        SKERRY_AGENT_GATEWAY: `${this.address}:${String(gatewayPort)}`,
      },
    };
  }

  /** Loses packets between the host and the control plane, or everybody. */
  async cut(name: string, direction: Direction, from: "control-plane" | "all"): Promise<void> {
    const peer = (flag: string) => (from === "all" ? [] : [flag, this.address]);
    if (direction !== "in") await this.#rule(name, ["-A", "OUTPUT", ...peer("-d"), "-j", "DROP"]);
    if (direction !== "out") await this.#rule(name, ["-A", "INPUT", ...peer("-s"), "-j", "DROP"]);
  }

  async heal(name: string): Promise<void> {
    await this.#rule(name, ["-F"]);
  }

  #rule(name: string, rule: readonly string[]): Promise<unknown> {
    return run("ip", ["netns", "exec", this.#space(name), "iptables", "-w", ...rule]);
  }

  get #bridge(): string {
    return `skp${this.#id}`;
  }

  #space(name: string): string {
    return `skp-${this.#id}-${name}`;
  }

  async #close(): Promise<void> {
    for (const name of this.#hosts) await run("ip", ["netns", "delete", this.#space(name)]);
    await run("ip", ["link", "delete", this.#bridge]);
  }
}
