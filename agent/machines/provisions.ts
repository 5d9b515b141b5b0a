/** What a machine's driver needs before it can make or start it: the files of its image, and ports of the host. */
import { Fault } from "#kernel/fault.ts";
import { type MachineSpec, MachineState, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import type { LocalImage, MachinePlan } from "../drivers/driver.ts";
import { chooseDevices } from "./devices.ts";
import type { LedgerEntry, Progress } from "./entry.ts";
import { chooseHostPorts, withHostPorts } from "./host-ports.ts";
import type { MachineDeps } from "./machine-deps.ts";
import type { MachineStatus } from "./machine-status.ts";

type ProvisionsDeps = Pick<MachineDeps, "driver" | "images" | "devices" | "ledger" | "directoryOf">;

export class Provisions {
  readonly #id: string;
  readonly #deps: ProvisionsDeps;
  readonly #status: MachineStatus;

  constructor(id: string, deps: ProvisionsDeps, status: MachineStatus) {
    this.#id = id;
    this.#deps = deps;
    this.#status = status;
  }

  /** Fetches and chooses what the driver needs, and notes it. */
  async provide({ progress }: LedgerEntry, spec: MachineSpec, signal: AbortSignal): Promise<void> {
    const { ledger } = this.#deps;
    const image = await this.#findImage(progress.image, spec, signal);
    const hostPorts = await chooseHostPorts(spec.forwards, progress.hostPorts, (port) =>
      this.#isPromised(port),
    );
    const present = await this.#findDevices(progress, spec, signal);
    // From here to the note nothing is waited for, so that no other machine chooses meanwhile.
    const devices = present ? this.#chooseDevices(progress, spec, present) : progress.devices;
    const found = { image, hostPorts, devices };
    // On disk before the driver starts: recovery can only find what it has the files' names of, and a device that
    // somebody has must never look free.
    if (!progress.image || devices.join() !== progress.devices.join()) await ledger.note(this.#id, found);
    else ledger.noteSoon(this.#id, found);
  }

  /** What the driver is asked for, once `provide` has found the files. */
  plan(entry: LedgerEntry, spec: MachineSpec): MachinePlan {
    const { progress } = this.#deps.ledger.find(this.#id) ?? entry;
    if (!progress.image) throw new Fault("internal", "the machine's files are not known");
    return {
      id: this.#id,
      spec: withHostPorts(spec, progress.hostPorts),
      image: progress.image,
      directory: this.#deps.directoryOf(this.#id),
      devices: progress.devices,
    };
  }

  /** A machine that has been made keeps its files; only a start wants them checked again. */
  async #findImage(
    known: LocalImage | undefined,
    spec: MachineSpec,
    signal: AbortSignal,
  ): Promise<LocalImage> {
    if (known && (spec.power !== Power.ON || this.#status.isRunning)) return known;
    if (spec.adoption) return this.#foreign();
    if (!spec.image) throw new Fault("invalid", "the machine has no image", { reason: "IMAGE_MISSING" });
    if (!this.#status.observed) this.#status.show(MachineState.PREPARING);
    return this.#deps.images.ensure(spec.image, (done, total) => this.#status.showImage(done, total), signal);
  }

  /** The host's, for one that is to be started with some: one that runs, or is to stop, has what it has. */
  async #findDevices(
    progress: Progress,
    { container, power, restarts }: MachineSpec,
    signal: AbortSignal,
  ): Promise<readonly string[] | undefined> {
    const starts = power === Power.ON && (!this.#status.isRunning || restarts > progress.restarts);
    if (!starts || !container || container.gpus === 0) return undefined;
    return (await this.#deps.devices?.read(signal)) ?? [];
  }

  #chooseDevices({ devices: kept }: Progress, { container }: MachineSpec, present: readonly string[]) {
    const taken = this.#deps.ledger.devicesOfOthers(this.#id);
    return chooseDevices({ count: container?.gpus ?? 0, kept, present, taken });
  }

  #foreign(): LocalImage {
    if (this.#deps.driver.foreign) return { type: "none" };
    throw new Fault("invalid", "the host's driver adopts no machines", { reason: "ADOPTION_UNSUPPORTED" });
  }

  /** To another machine. */
  #isPromised(port: number): boolean {
    return this.#deps.ledger
      .list()
      .some(({ id, progress }) => id !== this.#id && Object.values(progress.hostPorts).includes(port));
  }
}
