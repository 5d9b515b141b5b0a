/** The few effects of an image: resolve a URL, say what is known, go away. */
import type { EgressPolicy } from "#kernel/egress.ts";
import { unlessAborted } from "#kernel/stall.ts";
import type { Action, Controller, Effects } from "../../engine/controller.ts";
import { decideImage } from "./image.decide.ts";
import type { Image, ImageFile, ImageStatus } from "./image.resource.ts";
import { resolveImageUrl, type UrlSource } from "./image.resolve.ts";

export interface ImageControllerOptions {
  readonly egress: EgressPolicy;
  readonly maxBytes: number;
  /** Most images are resolved within this; longer reading goes on between passes. Default 3 s. */
  readonly patienceMs?: number;
}

const defaultPatienceMs = 3_000;

/** Reading a whole image takes longer than a pass may; it goes on here, and the passes look in. */
interface Reading {
  readonly result: Promise<ImageFile>;
  readonly stop: AbortController;
  done: number;
  total: number;
}

/** The image kind for the engine. */
export function createImageController(options: ImageControllerOptions): Controller<Image> {
  const readings = new Map<string, Reading>();

  const resolve: Action<Image> = async (effects, { resource }) => {
    const { source } = resource.desired;
    if (source.type !== "url") return;
    const reading = readings.get(resource.id) ?? startReading(source, effects, options);
    readings.set(resource.id, reading);
    const file = await within(reading.result, options.patienceMs ?? defaultPatienceMs).catch(
      (error: unknown) => {
        readings.delete(resource.id);
        throw error;
      },
    );
    if (file) readings.delete(resource.id);
    const generation = file ? resource.generation : resource.observedGeneration;
    const status = file
      ? statusOf([file])
      : { files: [], bytes_done: reading.done, bytes_total: reading.total };
    await effects.write((writes) => writes.observe(status, generation));
  };

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

  return { kind: "image", decide: decideImage, actions: { resolve, confirm, erase }, operations: [] };
}

function startReading(source: UrlSource, effects: Effects, options: ImageControllerOptions): Reading {
  const stop = new AbortController();
  const signal = AbortSignal.any([effects.signal, stop.signal]);
  const progress = (done: number, total: number) => Object.assign(reading, { done, total });
  const result = resolveImageUrl(source, { ...options, signal, progress });
  const reading: Reading = { result, stop, done: 0, total: 0 };
  // Between two passes nobody listens; the next one meets the error.
  result.catch((error: unknown) => effects.log.debug("image.reading_failed", { error }));
  return reading;
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
