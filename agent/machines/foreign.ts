/** What others made on this host, as the control plane is told of it. */
import { create } from "@bufbuild/protobuf";
import type { Logger } from "#kernel/log.ts";
import { deadline } from "#kernel/retry.ts";
import { type ForeignMachines, ForeignMachinesSchema } from "#gen/skerry/agent/v1/machine_pb.js";
import type { MachineDriver } from "../drivers/driver.ts";
import { stateOf } from "./machine-view.ts";

const listLimitMs = 30_000;

/** Lists them; undefined where the driver cannot tell, for good or just now. */
export async function listForeign(
  { foreign }: Pick<MachineDriver, "foreign">,
  log: Logger,
): Promise<ForeignMachines | undefined> {
  if (!foreign) return undefined;
  using limit = deadline(listLimitMs, "listing the host's machines");
  try {
    const found = await foreign.list(limit);
    const machines = found.map(({ state, disks, obstacles, ...machine }) => ({
      ...machine,
      ...{ state: stateOf[state], disks: [...disks], obstacles: [...obstacles] },
    }));
    return create(ForeignMachinesSchema, { machines: machines.sort((a, b) => (a.name < b.name ? -1 : 1)) });
  } catch (fault) {
    log.warn("foreign.not_listed", { fault }); // asked again with the next sample
    return undefined;
  }
}
