/**
 * One driver for all that runs on a host: containers go to the one, virtual machines to the other. Everything above it
 * (commands, fences, the ledger, restarts, reports) knows machines only.
 */
import { stat } from "node:fs/promises";
import type { DriverFacts, MachineDriver, MachineEvent, MachinePlan } from "../drivers/driver.ts";
import { type ContainerDriver, markOf } from "./driver.ts";

/** @param machines stays the caller's to dispose of, and so do the containers */
export function withContainers(machines: MachineDriver, containers: ContainerDriver): MachineDriver {
  const driverOf = ({ spec }: MachinePlan) => (spec.container ? containers : machines);
  const ownerOf = (id: string) => (containers.knows(id) ? containers : machines);
  return {
    name: machines.name,
    ...abilitiesOf(machines),
    probe: (signal): Promise<DriverFacts> => machines.probe(signal),
    async recover(plans, signal) {
      const ours = (driver: MachineDriver) => plans.filter((plan) => driverOf(plan) === driver);
      const found = await machines.recover(ours(machines), signal);
      return [...found, ...(await containers.recover(ours(containers), signal))];
    },
    ensure: (plan, signal) => driverOf(plan).ensure(plan, signal),
    async remove(id, directory, signal, options) {
      // One that was to be removed when the agent was killed is known by what it left.
      const isContainer = containers.knows(id) || (await exists(markOf(directory)));
      if (isContainer) return await containers.remove(id, directory, signal);
      await machines.remove(id, directory, signal, options);
    },
    inspect: (id) => ownerOf(id).inspect(id),
    metrics: (id) => ownerOf(id).metrics(id),
    events: (signal) => merged([machines.events(signal), containers.events(signal)]),
    async [Symbol.asyncDispose]() {
      await containers[Symbol.asyncDispose]();
      await machines[Symbol.asyncDispose]();
    },
  };
}

type AbilityName = {
  [Name in keyof MachineDriver]-?: object extends Pick<MachineDriver, Name> ? Name : never;
}[keyof MachineDriver];

/** All that a driver may have or not: one that is forgotten here does not compile. */
const abilities: Readonly<Record<AbilityName, true>> = {
  console: true,
  liveMigration: true,
  foreign: true,
  diskCopies: true,
};

function abilitiesOf(machines: MachineDriver): Pick<MachineDriver, AbilityName> {
  const names = (Object.keys(abilities) as AbilityName[]).filter((name) => machines[name] !== undefined);
  return Object.fromEntries(names.map((name) => [name, machines[name]]));
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT" || error.code === "ENOTDIR") return false;
      throw error;
    },
  );
}

/** Whatever comes next from any of them. The first that fails, or ends, ends all. */
async function* merged(sources: readonly AsyncIterable<MachineEvent>[]): AsyncGenerator<MachineEvent> {
  const iterators = sources.map((source) => source[Symbol.asyncIterator]());
  const ask = async (iterator: AsyncIterator<MachineEvent>) => ({ iterator, result: await iterator.next() });
  const waiting = new Map(iterators.map((iterator) => [iterator, ask(iterator)]));
  try {
    for (;;) {
      const { iterator, result } = await Promise.race(waiting.values());
      if (result.done) return;
      waiting.set(iterator, ask(iterator));
      yield result.value;
    }
  } finally {
    for (const iterator of iterators) void iterator.return?.();
  }
}
