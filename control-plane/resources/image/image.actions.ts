/** The few effects of an image: resolve a URL, copy a disk, say what is known, go away. */
import type { EgressPolicy } from "#kernel/egress.ts";
import { unlessAborted } from "#kernel/stall.ts";
import type { Action, Controller, Effects } from "../../engine/controller.ts";
import { decideImage } from "./image.decide.ts";
import { captureDisk, type StoreContent } from "./image.capture.ts";
import type { Image, ImageFile, ImageStatus } from "./image.resource.ts";
import { resolveImageUrl } from "./image.resolve.ts";

export interface ImageControllerOptions {
  readonly egress: EgressPolicy;
  readonly maxBytes: number;
  readonly store: StoreContent;
  /** Most images are resolved within this; longer reading goes on between passes. Default 3 s. */
  readonly patienceMs?: number;
}

const defaultPatienceMs = 3_000;

/** Reading a whole image takes longer than a pass may; it goes on here, and the passes look in. */
interface Reading {
  readonly result: Promise<readonly ImageFile[]>;
  readonly stop: AbortController;
  done: number;
  total: number;
}

/** How a reading is called off, and how it tells how far it is. */
interface Watched {
  readonly signal: AbortSignal;
  readonly progress: (done: number, total: number) => void;
}

/** The image kind for the engine. */
export function createImageController(options: ImageControllerOptions): Controller<Image> {
  const readings = new Map<string, Reading>();

  const resolve: Action<Image> = (effects, { resource }) => {
    const { source } = resource.desired;
    if (source.type !== "url") return Promise.resolve();
    return readFor(effects, resource, async (reading) => [
      await resolveImageUrl(source, { ...options, ...reading }),
    ]);
  };

  const capture: Action<Image> = (effects, { resource, references: { instance, base } }) => {
    const { id, hostId } = instance ?? {};
    if (id === undefined || hostId === undefined) return Promise.resolve();
    const { agents } = effects;
    return readFor(effects, resource, async (reading) => [
      ...startFiles(base as Image | undefined),
      await captureDisk(id, hostId, { ...options, ...reading, agents }),
    ]);
  };

  /** Looks in on the reading, or starts it; tells what it has come to. */
  async function readFor(
    effects: Effects,
    { id, generation: wanted, observedGeneration }: Image,
    start: (reading: Watched) => Promise<readonly ImageFile[]>,
  ): Promise<void> {
    const reading = readings.get(id) ?? startReading(effects, start);
    readings.set(id, reading);
    const files = await within(reading.result, options.patienceMs ?? defaultPatienceMs).catch(
      (error: unknown) => {
        readings.delete(id);
        throw error;
      },
    );
    if (files) readings.delete(id);
    const generation = files ? wanted : observedGeneration;
    const status = files
      ? statusOf(files)
      : { files: [], bytes_done: reading.done, bytes_total: reading.total };
    await effects.write((writes) => writes.observe(status, generation));
  }

  const confirm: Action<Image> = async (effects, { resource }) => {
    const { source } = resource.desired;
    const files = source.type === "built-in" ? source.files : (resource.observed?.files ?? []);
    await effects.write((writes) => writes.observe(statusOf(files), resource.generation));
  };

  const erase: Action<Image> = async (effects, { resource }) => {
    readings.get(resource.id)?.stop.abort();
    readings.delete(resource.id);
    await effects.write((writes) => writes.erase());
  };

  return {
    kind: "image",
    decide: decideImage,
    actions: { resolve, capture, confirm, erase },
    operations: [],
  };
}

function startReading(effects: Effects, start: (reading: Watched) => Promise<readonly ImageFile[]>): Reading {
  const stop = new AbortController();
  const signal = AbortSignal.any([effects.signal, stop.signal]);
  const far = { done: 0, total: 0 };
  const result = start({ signal, progress: (done, total) => Object.assign(far, { done, total }) });
  // Between two passes nobody listens; the next one meets the error.
  result.catch((error: unknown) => effects.log.debug("image.reading_failed", { error }));
  return Object.assign(far, { result, stop });
}

/** What a machine of that image starts from, where that is not on its disk. */
function startFiles(image: Image | undefined): readonly ImageFile[] {
  return (image?.observed?.files ?? []).filter(({ role }) => role === "kernel" || role === "initrd");
}

/** The result, or undefined when it is not there in time. */
async function within<T>(work: Promise<T>, ms: number): Promise<T | undefined> {
  const timeout = AbortSignal.timeout(ms);
  return await unlessAborted(work, timeout).catch((error: unknown) => {
    if (timeout.aborted) return undefined;
    throw error;
  });
}

function statusOf(files: readonly ImageFile[]): ImageStatus {
  const bytes = files.reduce((sum, file) => sum + file.size_bytes, 0);
  return { files: [...files], bytes_done: bytes, bytes_total: bytes };
}
