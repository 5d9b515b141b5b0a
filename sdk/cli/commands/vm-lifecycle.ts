/** Changing machines that are there: power, size, deletion. */
import { Command, Option } from "commander";
import { Fault } from "#kernel/fault.ts";
import type { Instance } from "../../kinds/generated.ts";
import type { Run, Session } from "../session.ts";
import { parseInteger, parseSize } from "../units.ts";
import { awaitPhases, describeInstance, withWaiting, type WaitFlags } from "../waiting.ts";

/** start, stop, restart, resize and rm. */
export function lifecycleCommands(run: Run): Command[] {
  const rm = new Command("rm")
    .description("delete machines and their disks; one that was adopted is turned off and keeps its disk")
    .argument("<vm...>", "names or ids")
    .addOption(
      new Option("--adopted <end>", "what becomes of one that was adopted").choices([
        "keep-disks",
        "delete-disks",
        "release",
      ]),
    );
  const resize = new Command("resize")
    .description("change the size; what a running machine cannot take over waits for a restart")
    .argument("<vm>", "name or id")
    .option("--cpus <count>", "virtual CPUs", parseInteger(1, 512))
    .option("--memory <size>", "memory, such as 2g", parseSize)
    .option("--disk <size>", "root disk; it can only grow", parseSize);
  return [
    verbCommand(run, "start", "start a machine", "running"),
    verbCommand(
      run,
      "stop",
      "shut a machine down: the guest is asked first, then the plug is pulled",
      "stopped",
    ),
    verbCommand(run, "restart", "shut down and start again; applies what waits for a restart", "running"),
    withWaiting(resize, "it has its new size").action(run(resizeVm)),
    withWaiting(rm, "they are gone").action(run(removeVms)),
  ];
}

function verbCommand(
  run: Run,
  verb: "start" | "stop" | "restart",
  description: string,
  phase: Instance["phase"],
): Command {
  const command = new Command(verb).description(description).argument("<vm>", "name or id");
  return withWaiting(command, `it is ${phase}`).action(
    run(async (session, name: string, options: WaitFlags) => {
      const { instances } = await session.cloud();
      const { id } = await instances.find(name, { signal: session.signal });
      const instance = await instances[verb](id, { signal: session.signal });
      await settleInstance(session, instance, phase, options);
    }),
  );
}

interface ResizeOptions extends WaitFlags {
  readonly cpus?: number;
  readonly memory?: number;
  readonly disk?: number;
}

async function resizeVm(session: Session, name: string, options: ResizeOptions): Promise<void> {
  const { cpus, memory, disk } = options;
  if (cpus === undefined && memory === undefined && disk === undefined) {
    throw new Fault("invalid", "nothing to change: give --cpus, --memory or --disk", {
      reason: "NOTHING_TO_CHANGE",
    });
  }
  const { instances } = await session.cloud();
  const { id } = await instances.find(name, { signal: session.signal });
  const spec = {
    ...(cpus !== undefined && { cpus }),
    ...(memory !== undefined && { memory_bytes: memory }),
    ...(disk !== undefined && { disk_bytes: disk }),
  };
  const instance = await instances.update(id, { spec }, { signal: session.signal });
  await settleInstance(session, instance, instance.spec.power === "on" ? "running" : "stopped", options);
}

interface RemoveOptions extends WaitFlags {
  readonly adopted?: NonNullable<Instance["spec"]["adopted"]>["on_delete"];
}

async function removeVms(session: Session, names: readonly string[], options: RemoveOptions): Promise<void> {
  const { instances } = await session.cloud();
  // All are looked up before the first is deleted: a mistyped name must not leave half of it done.
  const found: Instance[] = [];
  for (const name of names) found.push(await instances.find(name, { signal: session.signal }));
  if (options.adopted) await sayEnd(session, found, options.adopted);
  const removed: { id: string; name: string; gone: boolean }[] = [];
  for (const { id, name } of found) {
    let left = await instances.delete(id, { signal: session.signal });
    if (left && options.wait) {
      left = await awaitPhases(session, instances, left, ["deleted"], {
        ...options,
        describe: describeInstance,
      });
    }
    removed.push({ id, name, gone: left === undefined || left.phase === "deleted" });
  }
  const sentences = removed.map(({ name, gone }) => `${name} is ${gone ? "gone" : "being deleted"}.`);
  session.out.done(sentences.join("\n"), removed);
}

/** The end of an adoption is part of what its owner wants; the deletion carries it out. */
async function sayEnd(
  session: Session,
  found: readonly Instance[],
  on_delete: NonNullable<RemoveOptions["adopted"]>,
): Promise<void> {
  const { instances } = await session.cloud();
  const made = found.find(({ spec }) => !spec.adopted);
  if (made) {
    throw new Fault("invalid", `${made.name} was not adopted: leave --adopted out`, {
      reason: "NOT_ADOPTED",
    });
  }
  for (const { id, spec } of found) {
    if (!spec.adopted) continue;
    await instances.update(
      id,
      { spec: { adopted: { ...spec.adopted, on_delete } } },
      { signal: session.signal },
    );
  }
}

/** Waits for a phase when that was asked for, then says how things stand. */
export async function settleInstance(
  session: Session,
  instance: Instance,
  phase: Instance["phase"],
  options: WaitFlags,
): Promise<void> {
  const { instances } = await session.cloud();
  const describe = describeInstance;
  const settled = options.wait
    ? await awaitPhases(session, instances, instance, [phase], { ...options, describe })
    : instance;
  if (!settled) {
    throw new Fault("conflict", `${instance.name} was deleted meanwhile`, { reason: "DELETED" });
  }
  const pending = settled.status?.pending_restart ?? [];
  const later =
    options.wait && pending.length > 0 ? ` ${pending.join(", ")} will change at the next restart.` : "";
  session.out.done(`${settled.name} (${settled.id}) is ${settled.phase}.${later}`, settled);
}
