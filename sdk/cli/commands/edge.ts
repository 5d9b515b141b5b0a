/** `skerry edge`: hosts as places to run workloads in. */
import { Command } from "commander";
import type { Host } from "../../kinds/generated.ts";
import type { Column } from "../output.ts";
import type { Run } from "../session.ts";
import { formatSize } from "../units.ts";

export function edgeCommand(run: Run): Command {
  const edge = new Command("edge").description("hosts as places to run workloads in");
  edge
    .command("ls")
    .alias("list")
    .description("list hosts with where they are, what they have and how many workloads run there")
    .action(
      run(async (session) => {
        const { hosts, workloads } = await session.cloud();
        const options = { signal: session.signal, pageSize: 500 };
        const [found, running] = [
          await hosts.list({}, options).all(),
          await workloads.list({}, options).all(),
        ];
        const counts = new Map<string, number>();
        for (const { placement } of running) {
          if (placement) counts.set(placement.host_id, (counts.get(placement.host_id) ?? 0) + 1);
        }
        session.out.list(found, columns(counts));
      }),
    );
  return edge;
}

function columns(workloads: ReadonlyMap<string, number>): readonly Column<Host>[] {
  return [
    { title: "NAME", value: (r) => r.name },
    { title: "PHASE", value: (r) => r.phase, phase: true },
    { title: "CITY", value: (r) => r.spec.location?.city ?? "" },
    { title: "COUNTRY", value: (r) => r.spec.location?.country ?? "" },
    { title: "CPUS", value: (r) => String(r.status?.capacity.cpus ?? ""), align: "right" },
    { title: "MEMORY", value: (r) => formatSize(r.status?.capacity.memory_bytes ?? 0), align: "right" },
    { title: "GPUS", value: (r) => String(r.status?.containers?.gpus?.length ?? 0), align: "right" },
    { title: "WORKLOADS", value: (r) => String(workloads.get(r.id) ?? 0), align: "right" },
    { title: "CONTAINERS", value: containersOf },
  ];
}

/** What runs them, or why there are none. */
function containersOf({ status }: Host): string {
  const { engine, version, reason } = status?.containers ?? {
    engine: "",
    version: "",
    reason: "not known yet",
  };
  return engine === "" ? `none: ${reason}` : `${engine} ${version}`;
}
