import { z } from "zod";
import { Fault } from "#kernel/fault.ts";
import { defineResource, type PhaseInput, type Resource } from "../definition.ts";
import type { InstanceSpec } from "../instance/instance.resource.ts";

const sha256 = z.string().regex(/^[0-9a-f]{64}$/, "must be a lower-case hexadecimal SHA-256");

export const imageFile = z.strictObject({
  role: z.enum(["disk", "kernel", "initrd", "archive"]),
  sha256,
  size_bytes: z.int().min(0),
  /** Empty: fetched from the control plane by its digest. */
  url: z.string(),
  format: z.enum(["qcow2", "raw", ""]),
});
export type ImageFile = z.infer<typeof imageFile>;

/** Where the content comes from: a download, an upload that follows, or the disk of an instance. */
export const imageSource = z.discriminatedUnion("type", [
  z.strictObject({
    type: z.literal("url"),
    url: z.url({ protocol: /^https?$/ }).max(2048),
    sha256: sha256.nullable().default(null).describe("checked when given, computed when not"),
    checksums_url: z
      .url({ protocol: /^https?$/ })
      .max(2048)
      .nullable()
      .default(null)
      .describe("a SHA256SUMS file that lists the download"),
  }),
  z.strictObject({ type: z.literal("upload") }),
  z.strictObject({
    type: z.literal("instance"),
    instance: z
      .string()
      .min(1)
      .max(255)
      .describe("id or name of an instance, whose disk is copied as it is then; it starts as that one does"),
  }),
  z.strictObject({ type: z.literal("built-in"), files: z.array(imageFile) }),
]);

const word = z.string().max(64);
/** The operating system inside, as its owner calls it. */
export const imageOs = z.strictObject({
  type: z.enum(["linux", "windows", "other"]).default("linux"),
  name: word.default(""),
  version: word.default(""),
});

export const imageSpec = z.strictObject({
  type: z
    .enum(["disk", "kernel", "container"])
    .default("disk")
    .describe("what it is; a container's is an OCI archive, for workloads"),
  architecture: z.enum(["x86_64", "aarch64"]).default("x86_64"),
  aliases: z.array(z.string().min(1).max(255)).max(64).default([]),
  description: z.string().max(1024).default(""),
  command_line: z.string().max(4096).default(""),
  os: imageOs.nullable().default(null),
  min_disk_bytes: z.int().min(0).default(0).describe("an instance's disk is at least so large"),
  source: imageSource,
});
export type ImageSpec = z.infer<typeof imageSpec>;

export const imageStatus = z.strictObject({
  files: z.array(imageFile),
  bytes_done: z.int(),
  bytes_total: z.int(),
});
export type ImageStatus = z.infer<typeof imageStatus>;

/**
 * `listed`: a catalogue image that nobody has used yet; it is resolved on first use.
 * `pending`: being resolved, or waiting for its upload.
 */
export const imagePhases = ["listed", "pending", "available", "deleting", "failed"] as const;
export type ImagePhase = (typeof imagePhases)[number];
export type Image = Resource<ImageSpec, ImageStatus, ImagePhase>;

function phase(r: PhaseInput<ImageSpec, ImageStatus>): ImagePhase {
  if (r.deletingAt) return "deleting";
  if (r.problem?.stuck && r.problem.generation >= r.generation) return "failed";
  if (r.observed && r.observed.files.length > 0) return "available";
  return r.desired.source.type === "url" && r.desired.source.checksums_url ? "listed" : "pending";
}

export const image = defineResource<ImageSpec, ImageStatus, ImagePhase>({
  kind: "image",
  plural: "images",
  idPrefixes: ["img"],
  summary:
    "What an instance boots from: a disk, or a kernel with its initrd and what its disk begins with; or a workload's container image",
  scope: "shared",
  spec: imageSpec,
  status: imageStatus,
  immutable: ["type", "architecture", "source"],
  phases: imagePhases,
  phase,
  next: {
    listed: ["pending", "available", "deleting", "failed"],
    pending: ["available", "deleting", "failed"],
    available: ["deleting", "failed"],
    deleting: [],
    failed: ["listed", "pending", "available", "deleting"],
  },
  settled: ["available", "failed"],
  verbs: {},
  references: {
    instance: { kind: "instance", field: "source", within: "instance", own: true, weak: true },
    base: { kind: "image", field: "source", through: ["instance", "image"], weak: true },
  },
  filters: {
    architecture: { summary: "x86_64 or aarch64", path: ["desired", "architecture"] },
    type: { summary: "disk, kernel or container", path: ["desired", "type"] },
  },
  quota: { images: 1 },
  access: { read: "viewer", create: "operator", update: "operator", delete: "operator" },
  reconciled: true,
  uniqueNames: true,
  schemaVersion: 1,
  example: {
    name: "my-custom-app-image",
    spec: {
      description: "A web server and what it needs",
      os: { name: "Ubuntu", version: "22.04" },
      min_disk_bytes: 50 * 1024 ** 3,
      source: { type: "url", url: "https://images.example.com/web.qcow2" },
    },
    status: {
      files: [
        {
          role: "disk",
          sha256: "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
          size_bytes: 734_003_200,
          url: "https://images.example.com/web.qcow2",
          format: "qcow2",
        },
      ],
      bytes_done: 734_003_200,
      bytes_total: 734_003_200,
    },
  },
  derive: deriveImage,
  validate(next, previous) {
    const builtInBefore = previous?.source.type === "built-in";
    if (next.source.type === "built-in" && previous && !builtInBefore) {
      throw new Fault("invalid", "an image cannot become built-in", { detail: { field: "source" } });
    }
    if (next.type === "container" && next.source.type !== "upload") {
      throw new Fault(
        "invalid",
        "spec.source: a container's image is uploaded; workloads name registries themselves",
        {
          detail: { field: "spec.source" },
        },
      );
    }
  },
});

/** What is made of an instance starts as that does, and needs a disk of its size. */
function deriveImage(
  spec: ImageSpec,
  given: Readonly<Record<string, unknown>>,
  { instance, base }: Readonly<Record<string, Resource>>,
): ImageSpec {
  if (!instance || spec.source.type !== "instance") return spec;
  const { disk_bytes: bytes } = instance.desired as Pick<InstanceSpec, "disk_bytes">;
  const below = base?.desired as ImageSpec | undefined;
  const derived: ImageSpec = {
    ...spec,
    type: below?.type ?? "disk",
    architecture: below?.architecture ?? spec.architecture,
    os: spec.os ?? below?.os ?? null,
    command_line: spec.command_line === "" ? (below?.command_line ?? "") : spec.command_line,
    source: { ...spec.source, instance: instance.id },
    min_disk_bytes: Math.max(spec.min_disk_bytes, bytes),
  };
  for (const field of ["type", "architecture"] as const) {
    if (given[field] === undefined || given[field] === derived[field]) continue;
    throw new Fault("invalid", `spec.${field}: that of the instance's own image is ${derived[field]}`, {
      detail: { field: `spec.${field}` },
    });
  }
  return derived;
}

/** The form in which names and aliases are compared: "Ubuntu 22.04" and "ubuntu-22-04" are one. */
export function normaliseImageName(name: string): string {
  return name
    .trim()
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-");
}
