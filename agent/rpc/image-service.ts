import { EventEmitter, on } from "node:events";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { Fault } from "#kernel/fault.ts";
import type { Image } from "#gen/skerry/agent/v1/machine_pb.js";
import type { ImageService } from "#gen/skerry/agent/v1/image_pb.js";
import type { ImageCache } from "../images/cache.ts";
import type { Ledger } from "../machines/ledger.ts";
import { requireControlPlane, requireOperator } from "./caller.ts";

export interface ImageServiceDeps {
  readonly images: ImageCache;
  readonly ledger: Ledger;
}

export function imageService({ images, ledger }: ImageServiceDeps): ServiceImpl<typeof ImageService> {
  return {
    async *pullImage({ image }, context) {
      requireControlPlane(context);
      if (!image) throw new Fault("invalid", "image is needed", { detail: { field: "image" } });
      yield* pull(images, image, context.signal);
    },

    async listImageFiles(_request, context) {
      requireOperator(context);
      const files = await images.list();
      return {
        files: files.map(({ sha256, sizeBytes, format, lastUsedAt }) => ({
          sha256,
          sizeBytes,
          format,
          lastUsedAt: timestampFromDate(lastUsedAt),
        })),
      };
    },

    async removeImageFile({ sha256 }, context) {
      requireControlPlane(context);
      if (!/^[0-9a-f]{64}$/.test(sha256)) {
        throw new Fault("invalid", "sha256 must be a SHA-256", { detail: { field: "sha256" } });
      }
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

/** Progress while the image comes, the latest where several are told at once, and a last word when it is here. */
async function* pull(images: ImageCache, image: Image, signal: AbortSignal) {
  const told = new EventEmitter();
  const ended = new AbortController();
  let latest = { bytesDone: 0n, bytesTotal: 0n };
  const progress = (bytesDone: bigint, bytesTotal: bigint) => {
    latest = { bytesDone, bytesTotal };
    told.emit("progress");
  };
  const steps = on(told, "progress", { signal: ended.signal });
  const pulling = images.ensure(image, progress, signal).finally(() => ended.abort());
  pulling.catch(() => undefined); // awaited below, unless the client leaves before
  let sent: typeof latest | undefined;
  try {
    for await (const _ of steps) {
      if (latest === sent) continue;
      sent = latest;
      yield { ...latest, complete: false };
    }
  } catch (thrown) {
    if (!ended.signal.aborted) throw thrown;
  }
  await pulling;
  yield { ...latest, complete: true };
}

function usesFile(image: Image | undefined, sha256: string): boolean {
  return image?.files.some((file) => file.sha256 === sha256) ?? false;
}
