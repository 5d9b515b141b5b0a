/** Images, which two dialects show alike but for the names of things. */
import { z } from "zod";
import { rootProject } from "../app/authorisation.ts";
import { invalidField } from "../app/validation.ts";
import { nameSchema } from "../http/native-json.ts";
import { image, imageSpec, type Image, type ImagePhase } from "../resources/image/image.resource.ts";
import { instance } from "../resources/instance/instance.resource.ts";
import { defineKind } from "./define-kind.ts";
import { phasesOf, withPrefix, type AnyDialectKind } from "./dialect.ts";
import { fromGigabytes, toGigabytes } from "./sizes.ts";

/** `listed` images are there for the asking: they are fetched when an instance wants one. */
const phases = {
  listed: "available",
  pending: "pending",
  available: "available",
  deleting: "deleting",
  failed: "failed",
} as const satisfies Record<ImagePhase, string>;
const words = ["pending", "available", "deleting", "failed"] as const;

const wire = z.object({
  id: z.string().describe("the same as image_id"),
  image_id: z.string(),
  name: z.string(),
  description: z.string(),
  status: z.enum(words),
  os_type: z.string(),
  os_name: z.string(),
  os_version: z.string(),
  architecture: z.string(),
  size_gb: z.number().describe("least size of a disk made of it"),
  size_bytes: z.number().describe("of its content; 0 until it is known"),
  is_public: z.boolean(),
  upload_url: z.string().nullable().describe("takes its content by PUT while it waits for that"),
  created_at: z.iso.datetime(),
  updated_at: z.iso.datetime(),
});

const word = z.string().max(64).optional();
const { architecture, description } = imageSpec.shape;
const createBody = z.strictObject({
  name: nameSchema,
  description: description.unwrap().optional(),
  os_type: z.enum(["linux", "windows", "other"]).optional(),
  os_name: word,
  os_version: word,
  architecture: architecture.unwrap().optional(),
  size_gb: z.int().min(0).max(65_536).optional(),
  source_url: z
    .url({ protocol: /^https?$/ })
    .max(2048)
    .optional()
    .describe("where its content is"),
  instance_id: z
    .string()
    .min(1)
    .max(255)
    .optional()
    .describe(
      "id or name of an instance whose disk it is made of; with neither of the two, upload_url takes the content",
    ),
});

/** The kind, at a path of the dialect's own. */
export function imageKind(at: { readonly path: string; readonly pageSize: number }): AnyDialectKind {
  return defineKind({
    ...at,
    definition: image,
    idName: "image_id",
    noun: "Image",
    type: "Image",
    types: "Images",
    idPrefix: "img",
    phases,
    examples: {
      create: {
        name: "my-custom-app-image",
        description: "A web server and what it needs",
        os_type: "linux",
        os_name: "Ubuntu",
        os_version: "22.04",
        size_gb: 50,
      },
    },
    fields: {
      min_disk_bytes: "size_gb",
      "source.instance": "instance_id",
      "source.url": "source_url",
      os: "os_name",
    },
    wire,
    encode: encodeImage,
    filters: z.object({
      status: z.enum(words).optional(),
      name: z.string().min(1).max(255).optional().describe("exact name"),
      search: z.string().min(1).max(255).optional().describe("part of its name or id"),
      is_public: z.enum(["true", "false"]).optional(),
    }),
    toQuery: ({ status, name, search, is_public }) => ({
      ...(status && { phases: phasesOf(phases, status) }),
      ...(name !== undefined && { name }),
      ...(search !== undefined && { search }),
      ...(is_public && { from: is_public === "true" ? ("shared" as const) : ("project" as const) }),
    }),
    create: {
      body: createBody,
      toInput: ({ name, os_type, os_name, os_version, size_gb = 0, source_url, instance_id, ...rest }) => ({
        name,
        spec: {
          ...rest,
          ...osOf({ type: os_type, name: os_name, version: os_version }),
          min_disk_bytes: fromGigabytes(size_gb),
          source: sourceOf(source_url, instance_id),
        },
      }),
    },
    deletes: true,
  });
}

/** Only what was said of it: who says nothing has what is known otherwise. */
function osOf(said: Readonly<Record<"type" | "name" | "version", string | undefined>>) {
  const os = Object.fromEntries(Object.entries(said).filter(([, value]) => value !== undefined));
  return Object.keys(os).length > 0 && { os };
}

/** An id with any prefix of the kind; what is no id may be a name. */
function canonical(idOrName: string): string {
  const isId = instance.idPrefixes.some((prefix) => idOrName.startsWith(`${prefix}-`));
  return isId ? withPrefix(idOrName, instance.idPrefixes[0]) : idOrName;
}

function sourceOf(url: string | undefined, instanceId: string | undefined) {
  if (url !== undefined && instanceId !== undefined) {
    throw invalidField("instance_id", "is not given along with source_url");
  }
  if (instanceId !== undefined) return { type: "instance", instance: canonical(instanceId) };
  return url === undefined ? { type: "upload" } : { type: "url", url };
}

function encodeImage({ id, name, project, phase, desired, observed, createdAt, updatedAt }: Image) {
  const waits = desired.source.type === "upload" && phase === "pending";
  const imageId = withPrefix(id, "img");
  return {
    id: imageId,
    image_id: imageId,
    name,
    description: desired.description,
    status: phases[phase],
    os_type: desired.os?.type ?? "linux",
    os_name: desired.os?.name ?? "",
    os_version: desired.os?.version ?? "",
    architecture: desired.architecture,
    size_gb: toGigabytes(desired.min_disk_bytes),
    size_bytes: observed?.bytes_total ?? 0,
    is_public: project === rootProject,
    upload_url: waits ? `/skerry/v1/images/${id}/content` : null,
    created_at: createdAt.toISOString(),
    updated_at: updatedAt.toISOString(),
  };
}
