/** How a stream is steered from one command to the next, against a QEMU that says what the test wants it to say. */
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { movedDisks } from "#agent/drivers/qemu/migration/channels.ts";
import { Course } from "#agent/drivers/qemu/migration/course.ts";
import type { DiskCopier } from "#agent/drivers/qemu/migration/disk-copier.ts";
import { sendMachine, type Sending } from "#agent/drivers/qemu/migration/send.ts";
import type { Situation } from "#agent/drivers/qemu/migration/situation.ts";
import type { RunningMachine } from "#agent/drivers/qemu/running-machine.ts";
import { MoveSchema } from "#gen/skerry/agent/v1/migration_pb.js";
import { sleep } from "#kernel/retry.ts";

const MB = 1_000_000;

const equalDisk = { status: "ready", ready: true, len: MB, offset: MB, "io-status": "ok" };

/** Sends 100 kB a millisecond unless it is held back, or stopped by what is on its way. */
class ScriptedQemu {
  readonly bandwidths: number[] = [];
  readonly eventCount = 0;
  readonly stoppedAtMs = undefined;
  remaining = 200 * MB;
  transferred = 0;
  #atMs = performance.now();

  async execute(command: string, args: { readonly "max-bandwidth"?: number }): Promise<unknown> {
    if (command === "query-status") return { status: "running" };
    if (command === "query-block-jobs") return movedDisks.map(({ job }) => ({ ...equalDisk, device: job }));
    if (command === "query-memory-size-summary") return { "base-memory": 2 ** 30 };
    if (command === "migrate-set-parameters") this.bandwidths.push(args["max-bandwidth"] ?? 0);
    if (command !== "query-migrate") return [];
    const now = performance.now();
    const sent = this.isHeld ? 0 : Math.min(this.remaining, (now - this.#atMs) * 100_000);
    this.#atMs = now;
    this.remaining -= sent;
    this.transferred += sent;
    const { remaining, transferred } = this;
    const ram = { remaining, transferred, total: 2 ** 30, "dirty-sync-count": 1, "page-size": 4096 };
    return { status: "active", ram };
  }

  get isHeld(): boolean {
    return (this.bandwidths.at(-1) ?? Infinity) < MB;
  }

  async eventAfter(_seen: number, ms: number): Promise<void> {
    await sleep(ms);
  }
}

t.test("a stream that is held back when a command ends is not let go by the next one", async (t) => {
  const qemu = new ScriptedQemu();
  const disks = { see: async (now: Situation) => now, keptBytes: undefined } as unknown as DiskCopier;
  const backlog = { bytes: 30 * MB, answerMs: 5, limit: () => undefined };
  const sending = (switchOver: boolean): Sending => ({
    ...{ machine: qemu as unknown as RunningMachine, disks, backlog, course, socketOf: () => "" },
    ...{ ahead: undefined, begun: true, postCopy: false, remember: async () => undefined },
    move: create(MoveSchema, { switchOver, maxDowntimeMs: 300 }),
  });
  const course = new Course();
  const first = new AbortController();
  for await (const { phase } of sendMachine(sending(false), first.signal))
    if (phase === "converged" && qemu.isHeld) break;
  const { length } = qemu.bandwidths;

  const second = new AbortController();
  setTimeout(() => second.abort(), 300);
  const phases = new Set<string>();
  await t.rejects(async () => {
    for await (const { phase } of sendMachine(sending(true), second.signal)) phases.add(phase);
  });
  t.ok(
    qemu.bandwidths.slice(length).every((bandwidth) => bandwidth < MB),
    "much is on its way still",
  );
  t.same([...phases], ["converged"], "it is as near as it was");

  backlog.bytes = 0;
  const third = new AbortController();
  setTimeout(() => third.abort(), 300);
  await t.rejects(async () => {
    for await (const _ of sendMachine(sending(true), third.signal));
  });
  t.notOk(qemu.isHeld, "once that has arrived it goes on");
});
