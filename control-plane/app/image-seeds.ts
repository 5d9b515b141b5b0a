/**
 * Puts the images that come with Skerry into the root project: the catalogue, `micro`, and what the
 * operator wants some names to mean instead. Runs at each start, on any replica; changes only what differs.
 */
import { isFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import {
  changeResource,
  insertResource,
  lockResource,
  toResource,
  type ResourceRow,
} from "../engine/rows.ts";
import { resourceColumns } from "../engine/rows.ts";
import { enqueue } from "../engine/work.ts";
import type { Resource } from "../resources/definition.ts";
import { catalogue, isCatalogueImage, toSeed, type ImageSeed } from "../resources/image/catalogue.ts";
import {
  image,
  normaliseImageName,
  type ImageSpec,
  type ImageStatus,
} from "../resources/image/image.resource.ts";
import type { BlobStore } from "../store/blobs.ts";
import type { Database, Tx } from "../store/database.ts";
import { importImage } from "./image-import.ts";
import { rootProject } from "./authorisation.ts";
import { sameJson } from "./validation.ts";
import { locks } from "../store/locks.ts";

export interface ImageSeedOptions {
  readonly database: Database;
  readonly blobs: BlobStore;
  /** A folder with a manifest, as the build of `micro` makes it; undefined: no `micro`. */
  readonly microDirectory: string | undefined;
  /**
   * Name or alias -> another image's name, a URL, a disk file, or a folder with a manifest. Undefined: this
   * replica was not told, so it adds what is missing and takes nothing of the others' away.
   */
  readonly overrides: Readonly<Record<string, string>> | undefined;
  readonly maxBytes: number;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/** Stores the seeds; throws `invalid` when an override leads nowhere. */
export async function seedImages(options: ImageSeedOptions): Promise<void> {
  const { database, log } = options;
  const known = await readSeeded(database);
  const seeds = await collectSeeds(options, known);
  await database.transaction(async (tx) => {
    await tx.query("select pg_advisory_xact_lock($1)", [locks.imageSeeds]);
    const present = new Map((await readSeeded(tx)).map((resource) => [resource.id, resource]));
    if (options.overrides === undefined) {
      for (const seed of seeds) if (!present.has(seed.id)) await insertSeed(tx, seed, log);
      return;
    }
    for (const seed of seeds) await putSeed(tx, seed, present.get(seed.id), log);
    const wanted = new Set(seeds.map(({ id }) => id));
    const gone = [...present.values()].filter(({ id, deletingAt }) => !wanted.has(id) && !deletingAt);
    for (const { id } of gone) await changeSeed(tx, id, { deletingAt: new Date() }, log);
  });
}

async function readSeeded(on: Pick<Tx, "query">): Promise<Resource[]> {
  const rows = await on.query<ResourceRow>(
    `select ${resourceColumns} from resource where kind = $1 and project = $2`,
    [image.kind, rootProject],
  );
  return rows.map(toResource).filter(({ id }) => isCatalogueImage(id));
}

async function collectSeeds(options: ImageSeedOptions, known: readonly Resource[]): Promise<ImageSeed[]> {
  const seeds = new Map(catalogue.map((seed) => [seed.name, seed]));
  const describe = new Map(
    known.map(({ desired }) => [(desired as ImageSpec).description, desired as ImageSpec]),
  );
  const find = (name: string) => {
    const wanted = normaliseImageName(name);
    return [...seeds.values()].find(({ spec }) => spec.aliases.includes(wanted));
  };
  if (options.microDirectory !== undefined) {
    const spec = await importImage(options.microDirectory, describe, options);
    seeds.set(
      "micro",
      toSeed("micro", { ...spec, description: "The small guest that comes with Skerry" }, []),
    );
  }
  const overrides = Object.entries(options.overrides ?? {});
  // All targets are looked up before any name changes its meaning.
  const targets = await Promise.all(
    overrides.map(async ([, target]) => find(target)?.spec ?? (await importImage(target, describe, options))),
  );
  overrides.forEach(([name], index) => {
    const spec = targets[index];
    if (spec) override(seeds, find(name), name, spec);
  });
  return [...seeds.values()];
}

/** An image's own name takes its aliases along; an alias alone becomes an image of that name. */
function override(
  seeds: Map<string, ImageSeed>,
  found: ImageSeed | undefined,
  name: string,
  spec: ImageSpec,
): void {
  if (found && normaliseImageName(found.name) === normaliseImageName(name)) {
    seeds.set(found.name, toSeed(found.name, spec, found.spec.aliases));
    return;
  }
  if (found) {
    const others = found.spec.aliases.filter((alias) => alias !== normaliseImageName(name));
    seeds.set(found.name, { ...found, spec: { ...found.spec, aliases: others } });
  }
  seeds.set(name, toSeed(name, spec, []));
}

async function putSeed(tx: Tx, seed: ImageSeed, present: Resource | undefined, log: Logger): Promise<void> {
  if (!present) {
    await insertSeed(tx, seed, log);
    return;
  }
  const before = present.desired as ImageSpec;
  if (sameJson(before, seed.spec)) {
    // What could not be resolved is tried again after a restart.
    if (present.problem?.stuck) await changeSeed(tx, seed.id, { problem: undefined }, log);
    return;
  }
  const sameContent = sameJson(before.source, seed.spec.source);
  const observed = sameContent ? present.observed : statusOf(seed.spec);
  const generation = present.generation + 1;
  await changeSeed(tx, seed.id, { desired: seed.spec, observed, generation, deletingAt: undefined }, log);
}

async function insertSeed(tx: Tx, { id, name, spec }: ImageSeed, log: Logger): Promise<void> {
  const input = {
    id,
    project: rootProject,
    name,
    labels: {},
    desired: spec,
    observed: statusOf(spec),
    refs: {},
  };
  try {
    await insertResource(tx, image, input);
  } catch (error) {
    if (!isFault(error, "conflict")) throw error;
    log.warn("image.name_taken", { name });
  }
}

async function changeSeed(
  tx: Tx,
  id: string,
  change: Parameters<typeof changeResource>[3],
  log: Logger,
): Promise<void> {
  await enqueue(tx, { key: id, kind: image.kind, fresh: true });
  const now = await lockResource(tx, id);
  if (now) await changeResource(tx, image, now, change, log);
}

/** Built-in content is there at once; the rest is resolved when it is wanted. */
function statusOf({ source }: ImageSpec): ImageStatus | undefined {
  if (source.type !== "built-in") return undefined;
  const bytes = source.files.reduce((sum, file) => sum + file.size_bytes, 0);
  return { files: [...source.files], bytes_done: bytes, bytes_total: bytes };
}
