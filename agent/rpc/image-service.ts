import { EventEmitter, on } from "node:events";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { Fault } from "#kernel/fault.ts";
import type { Image } from "#gen/skerry/agent/v1/machine_pb.js";
import type { ImageService } from "#gen/skerry/agent/v1/image_pb.js";
import type { ImageCache } from "../images/cache.ts";
import type { StoredFile } from "../images/content-store.ts";
import type { Progress } from "../images/shared-work.ts";
import type { Ledger } from "../machines/ledger.ts";
import type { MachineManager } from "../machines/manager.ts";
import { requireControlPlane, requireOperator } from "./caller.ts";

export interface ImageServiceDeps {
  readonly images: ImageCache;
  readonly ledger: Ledger;
  readonly manager: Pick<MachineManager, "get" | "copyDisk">;
}

export function imageService({
  images,
  ledger,
  manager,
}: ImageServiceDeps): ServiceImpl<typeof ImageService> {
  return {
    async *pullImage({ image }, context) {
      requireControlPlane(context);
      if (!image) throw new Fault("invalid", "image is needed", { detail: { field: "image" } });
      const ended = yield* watched((progress) => images.ensure(image, progress, context.signal));
      yield { bytesDone: ended.bytesDone, bytesTotal: ended.bytesTotal, complete: true };
    },

    async *captureDisk({ machineId }, context) {
      requireControlPlane(context);
      manager.get(machineId); // what is no machine names no file either
      const { signal } = context;
      const { result, bytesTotal } = yield* watched((progress) =>
        images.create(machineId, (path) => manager.copyDisk(machineId, path, progress, signal), signal),
      );
      yield { bytesDone: bytesTotal, bytesTotal, file: toMessage(result) };
    },

    async *readImageFile({ sha256, offset }, context) {
      requireControlPlane(context);
      requireDigest(sha256);
      for await (const data of images.read(sha256, Number(offset), context.signal)) yield { data };
    },

    async listImageFiles(_request, context) {
      requireOperator(context);
      return { files: (await images.list()).map(toMessage) };
    },

    async removeImageFile({ sha256 }, context) {
      requireControlPlane(context);
      requireDigest(sha256);
      const users = ledger.list().filter(({ intent }) => usesFile(intent.spec?.image, sha256));
      if (users.length > 0) {
        throw new Fault("conflict", "machines use the file", {
          reason: "IMAGE_IN_USE",
          detail: { machines: users.map(({ id }) => id).slice(0, 10) },
        });
      }
      await images.remove(sha256);
      return {};
    },
  };
}

/** Progress while the work goes on, the latest where several are told at once; its result is what is returned. */
async function* watched<T>(work: (progress: Progress) => Promise<T>) {
  const told = new EventEmitter();
  const ended = new AbortController();
  let latest = { bytesDone: 0n, bytesTotal: 0n };
  const progress = (bytesDone: bigint, bytesTotal: bigint) => {
    latest = { bytesDone, bytesTotal };
    told.emit("progress");
  };
  const steps = on(told, "progress", { signal: ended.signal });
  const working = work(progress).finally(() => ended.abort());
  working.catch(() => undefined); // awaited below, unless the client leaves before
  let sent: typeof latest | undefined;
  try {
    for await (const _ of steps) {
      if (latest === sent) continue;
      sent = latest;
      yield latest;
    }
  } catch (thrown) {
    if (!ended.signal.aborted) throw thrown;
  }
  const result = await working;
  return { result, ...latest };
}

const toMessage = ({ sha256, sizeBytes, format, lastUsedAt }: StoredFile) => ({
  ...{ sha256, sizeBytes, format },
  lastUsedAt: timestampFromDate(lastUsedAt),
});

function requireDigest(sha256: string): void {
  if (/^[0-9a-f]{64}$/.test(sha256)) return;
  throw new Fault("invalid", "sha256 must be a SHA-256", { detail: { field: "sha256" } });
}

function usesFile(image: Image | undefined, sha256: string): boolean {
  return image?.files.some((file) => file.sha256 === sha256) ?? false;
}
