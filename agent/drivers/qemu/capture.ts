/**
 * One file with all that a machine's disk holds, its image included. Of a machine that runs it is the disk at one
 * moment, as if its plug had been pulled then: QEMU copies what the guest is about to overwrite first.
 */
import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { exec } from "#agent/exec.ts";
import { Fault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";
import type { BlockJob } from "#agent/qmp/commands.ts";
import type { CopyProgress } from "../driver.ts";
import { hostFault } from "../hypervisor/host-fault.ts";
import { movedDisks } from "./migration/channels.ts";
import { unlessEnded } from "./observe.ts";
import type { RunningMachine } from "./running-machine.ts";

/** The job, and the node of the file that it fills. */
const name = "capture";
const node = movedDisks[0]?.node ?? "";
const copyLimitMs = 6 * 3_600_000;
const tidyLimitMs = 20_000;
const lookMs = 500;

/** What a copy leaves free, for the guests that write meanwhile. */
const reserveBytes = 512n * 1024n ** 2n;

/** Throws `exhausted` HOST_DISK_FULL when the host has no room for a copy of so much. */
export async function requireRoom(path: string, bytes: bigint): Promise<void> {
  const { bavail, bsize } = await statfs(dirname(path), { bigint: true });
  if (bavail * bsize >= bytes + reserveBytes) return;
  throw new Fault("exhausted", "the host has no room for a copy of the disk", { reason: "HOST_DISK_FULL" });
}

export interface CaptureTarget {
  readonly path: string;
  readonly bytes: bigint;
}

/** Copies the disk of a machine that is off. */
export async function captureStopped(disk: string, path: string, signal: AbortSignal): Promise<void> {
  await qemuImg(["convert", "-q", "-f", "qcow2", "-O", "qcow2", disk, path], signal);
}

/** Copies the disk of a machine that runs, which it goes on doing. */
export async function captureRunning(
  running: RunningMachine,
  target: CaptureTarget,
  progress: CopyProgress,
  signal: AbortSignal,
): Promise<void> {
  await tidy(running); // what an agent that was killed has left
  await qemuImg(["create", "-q", "-f", "qcow2", target.path, String(target.bytes)], signal);
  try {
    const file = { driver: "file", filename: target.path };
    await running.execute("blockdev-add", { "node-name": name, driver: "qcow2", file }, signal);
    await running.execute(
      "blockdev-backup",
      // A job that ended stays until we have seen how.
      { "job-id": name, device: node, target: name, sync: "full", "auto-dismiss": false },
      signal,
    );
    await completed(running, progress, signal);
  } finally {
    await unlessEnded(tidy(running));
  }
}

async function completed(
  running: RunningMachine,
  progress: CopyProgress,
  signal: AbortSignal,
): Promise<void> {
  using limit = deadline(copyLimitMs, "copying the disk", signal);
  for (;;) {
    const seen = running.eventCount;
    const job = await findJob(running, limit);
    if (!job || job.error !== undefined) {
      throw new Fault("unavailable", "the disk could not be copied", {
        reason: "CAPTURE_FAILED",
        cause: new Error(job?.error ?? "its job is gone"),
      });
    }
    progress(BigInt(job.offset), BigInt(job.len));
    limit.throwIfAborted(); // whoever broke it off is told so, even when it was done just then
    if (job.status === "concluded") return;
    await running.eventAfter(seen, lookMs, limit);
  }
}

/** Ends the copy, if there is one, and closes its file. */
async function tidy(running: RunningMachine): Promise<void> {
  using limit = deadline(tidyLimitMs, "ending the copy of the disk");
  for (let job = await findJob(running, limit); job; job = await findJob(running, limit)) {
    const seen = running.eventCount;
    if (job.status === "concluded") await running.execute("job-dismiss", { id: name }, limit);
    else {
      const ending = job.status === "aborting";
      if (!ending) await running.execute("block-job-cancel", { device: name, force: true }, limit);
      await running.eventAfter(seen, lookMs, limit);
    }
  }
  const nodes = await running.execute("query-named-block-nodes", { flat: true }, limit);
  if (nodes.some((each) => each["node-name"] === name)) {
    await running.execute("blockdev-del", { "node-name": name }, limit);
  }
}

async function findJob(running: RunningMachine, signal: AbortSignal): Promise<BlockJob | undefined> {
  return (await running.execute("query-block-jobs", {}, signal)).find(({ device }) => device === name);
}

async function qemuImg(args: readonly string[], signal: AbortSignal): Promise<void> {
  try {
    await exec("qemu-img", args, { signal, timeoutMs: copyLimitMs });
  } catch (error) {
    throw hostFault(error, "the disk cannot be copied");
  }
}
