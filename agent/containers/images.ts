/** What containers are made from: an archive that the cloud brings, or what a registry has. */
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { addressRanges, mayConnect } from "#kernel/address.ts";
import { Fault } from "#kernel/fault.ts";
import { type Image, ImageType } from "#gen/skerry/agent/v1/machine_pb.js";
import type { LocalImage } from "../drivers/driver.ts";
import type { ImageSource } from "../machines/machine-deps.ts";
import type { ContainerEngine } from "./engine.ts";

export interface ContainerImagesOptions {
  /** Brings files to this host, and knows all other images. */
  readonly files: ImageSource;
  readonly engine: Pick<ContainerEngine, "load" | "pull">;
  /** Registries, host or host:port, that may be used wherever they are. */
  readonly registries: readonly string[];
  /** Private address ranges that registries may be in. */
  readonly allowedRanges: readonly string[];
}

export class ContainerImages implements ImageSource {
  readonly #options: ContainerImagesOptions;

  constructor(options: ContainerImagesOptions) {
    this.#options = options;
  }

  async ensure(
    image: Image,
    progress: (done: bigint, total: bigint) => void,
    signal: AbortSignal,
  ): Promise<LocalImage> {
    const { files, engine } = this.#options;
    if (image.type !== ImageType.CONTAINER) return await files.ensure(image, progress, signal);
    if (image.files.length === 0) {
      await this.#admit(registryOf(image.name));
      return { type: "container", reference: await engine.pull(qualified(image.name), signal) };
    }
    const local = await files.ensure(image, progress, signal);
    if (local.type !== "archive") throw new Fault("internal", "the image has no archive");
    return { type: "container", reference: await engine.load(local, signal) };
  }

  /** A tenant's image must not lead into the networks around the host. */
  async #admit(registry: string): Promise<void> {
    const { registries, allowedRanges } = this.#options;
    if (registries.includes(registry)) return;
    const host = registry.replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1");
    const allowed = addressRanges(allowedRanges);
    const addresses = isIP(host) ? [{ address: host }] : await addressesOf(host, registry);
    if (addresses.every(({ address }) => mayConnect(address, allowed))) return;
    throw new Fault(
      "denied",
      `the registry ${registry} has no public address; only the operator can allow it`,
      {
        reason: "REGISTRY_FORBIDDEN",
        detail: { registry },
      },
    );
  }
}

async function addressesOf(host: string, registry: string) {
  try {
    return await lookup(host, { all: true });
  } catch (cause) {
    throw new Fault(
      "unavailable",
      `the registry ${registry} cannot be reached from the host; an archive can be imported instead`,
      { reason: "REGISTRY_UNREACHABLE", detail: { registry }, cause },
    );
  }
}

/** Of `name`, `owner/name` or `registry/…`: the first part is a registry when it looks like a host. */
export function registryOf(reference: string): string {
  const [first = "", ...rest] = reference.split("/");
  return rest.length > 0 && (/[.:]/.test(first) || first === "localhost") ? first : "docker.io";
}

/** The reference with its registry, so that nothing is left to the engine's configuration. */
export function qualified(reference: string): string {
  const registry = registryOf(reference);
  if (reference.startsWith(`${registry}/`)) return reference;
  return `${registry}/${reference.includes("/") ? "" : "library/"}${reference}`;
}
