/** Makes an image of an instance's disk: the host copies it, and the cloud takes the copy over for all hosts. */
import type { CapturedFile } from "../../agents/port.ts";
import type { Effects } from "../../engine/controller.ts";
import { Fault } from "#kernel/fault.ts";
import type { ImageFile } from "./image.resource.ts";

/** Keeps content where every host can fetch it by its digest. */
export type StoreContent = (
  content: AsyncIterable<Uint8Array>,
  maxBytes: number,
  signal: AbortSignal,
) => Promise<{ readonly sha256: string; readonly sizeBytes: number }>;

export interface CaptureOptions {
  readonly agents: Effects["agents"];
  readonly store: StoreContent;
  readonly maxBytes: number;
  readonly signal: AbortSignal;
  readonly progress: (done: number, total: number) => void;
}

/** The disk of the instance, as it was at some moment of the call. */
export async function captureDisk(
  instanceId: string,
  hostId: string,
  { agents, store, maxBytes, signal, progress }: CaptureOptions,
): Promise<ImageFile> {
  let captured: CapturedFile | undefined;
  for await (const { done, total, file } of agents.captureDisk(hostId, instanceId, signal)) {
    progress(done, total);
    captured = file;
  }
  if (!captured) throw new Fault("internal", "the agent's answer is incomplete");
  const { sha256, sizeBytes, format } = captured;
  const stored = await store(agents.readImageFile(hostId, sha256, signal), maxBytes, signal);
  if (stored.sha256 !== sha256 || (format !== "qcow2" && format !== "raw")) {
    throw new Fault("unavailable", "the copy of the disk changed on its way here", {
      reason: "IMAGE_DIGEST_MISMATCH",
    });
  }
  return { role: "disk", sha256, size_bytes: sizeBytes, url: "", format };
}
