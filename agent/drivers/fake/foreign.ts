/** Machines that somebody else has on a fake host: what a knob says there is, and what became of it. */
import { Fault } from "#kernel/fault.ts";
import type { AdoptionEnd, ForeignMachine, ForeignMachines, MachinePlan } from "../driver.ts";

export class FakeForeignMachines implements ForeignMachines {
  #machines: readonly ForeignMachine[] = [];
  /** Ids of our machines by the uuid that they were adopted with. */
  readonly #adopters = new Map<string, string>();

  /** There are these now, whoever has them. */
  set(machines: readonly ForeignMachine[]): void {
    this.#machines = machines;
  }

  async list(): Promise<readonly ForeignMachine[]> {
    return this.#machines.filter(({ uuid }) => !this.#adopters.has(uuid));
  }

  /** Notes whose it is from now on. */
  adopt({ id, spec }: MachinePlan): void {
    const { uuid } = spec.adoption ?? {};
    if (uuid === undefined) return;
    const found = this.#machines.find((machine) => machine.uuid === uuid);
    if (!found) throw new Fault("notFound", "there is no such machine", { reason: "DOMAIN_MISSING" });
    if (found.obstacles.length > 0 || (this.#adopters.get(uuid) ?? id) !== id) {
      throw new Fault("invalid", "it cannot be adopted", { reason: "NOT_ADOPTABLE" });
    }
    this.#adopters.set(uuid, id);
  }

  /** Hands back what a machine was adopted with, if it was. */
  end(id: string, how: AdoptionEnd, isOn: boolean): void {
    const [uuid] = [...this.#adopters].find(([, adopter]) => adopter === id) ?? [];
    if (uuid === undefined) return;
    this.#adopters.delete(uuid);
    const state = isOn && how === "release" ? "running" : "stopped";
    this.#machines = this.#machines.flatMap((machine) => {
      if (machine.uuid !== uuid) return machine;
      return how === "delete" ? [] : { ...machine, state };
    });
  }
}
