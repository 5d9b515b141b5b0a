/** What `npm run new:kind` writes. */
export interface NewKind {
  /** In file names: `security-group`. */
  readonly name: string;
  /** In rows: `security_group`. */
  readonly kind: string;
  readonly plural: string;
  readonly prefix: string;
  readonly noun: string;
  readonly camel: string;
  readonly pascal: string;
  readonly pascals: string;
  readonly dialect: string;
  /** Of its collection, after the dialect's base. */
  readonly path: string;
}

export const definitionText = ({ name, kind, plural, prefix, noun, camel, pascal }: NewKind): string => `
import { z } from "zod";
import { defineResource, type Resource } from "../definition.ts";

export const ${camel}Spec = z.strictObject({
  description: z.string().max(1024).default(""),
});
export type ${pascal}Spec = z.infer<typeof ${camel}Spec>;

export const ${camel}Phases = ["available", "deleting"] as const;
export type ${pascal}Phase = (typeof ${camel}Phases)[number];
export type ${pascal} = Resource<${pascal}Spec, null, ${pascal}Phase>;

export const ${camel} = defineResource<${pascal}Spec, null, ${pascal}Phase>({
  kind: "${kind}",
  plural: "${plural}",
  idPrefixes: ["${prefix}"],
  summary: "A ${noun}",
  scope: "project",
  spec: ${camel}Spec,
  status: z.null(),
  immutable: [],
  phases: ${camel}Phases,
  phase: ({ deletingAt }) => (deletingAt ? "deleting" : "available"),
  next: { available: ["deleting"], deleting: [] },
  settled: ["available"],
  verbs: {},
  references: {},
  filters: {},
  access: { read: "viewer", create: "operator", update: "operator", delete: "operator" },
  reconciled: false,
  uniqueNames: false,
  schemaVersion: 1,
  example: { name: "my-${name}", spec: { description: "for the shop" }, status: null },
});
`;

export const dialectText = (of: NewKind): string => `
import { z } from "zod";
import { nameSchema } from "../../http/native-json.ts";
import {
  ${of.camel},
  ${of.camel}Spec,
  type ${of.pascal},
  type ${of.pascal}Phase,
} from "../../resources/${of.name}/${of.name}.resource.ts";
import { defineKind } from "../define-kind.ts";
import { withPrefix } from "../dialect.ts";

const phases = { available: "available", deleting: "deleting" } as const satisfies Record<${of.pascal}Phase, string>;

const { description } = ${of.camel}Spec.shape;

const wire = z.object({
  ${of.kind}_id: z.string(),
  name: z.string(),
  description: z.string(),
  status: z.enum(["available", "deleting"]),
  created_at: z.iso.datetime(),
  updated_at: z.iso.datetime(),
});

export const ${of.camel}Kind = defineKind({
  definition: ${of.camel},
  path: "${of.path}",
  idName: "${of.kind}_id",
  noun: "${of.noun.charAt(0).toUpperCase()}${of.noun.slice(1)}",
  type: "${of.pascal}",
  types: "${of.pascals}",
  idPrefix: "${of.prefix}",
  phases,
  fields: {},
  wire,
  encode: ({ id, name, desired, phase, createdAt, updatedAt }: ${of.pascal}): z.infer<typeof wire> => ({
    ${of.kind}_id: withPrefix(id, "${of.prefix}"),
    name,
    description: desired.description,
    status: phases[phase],
    created_at: createdAt.toISOString(),
    updated_at: updatedAt.toISOString(),
  }),
  pageSize: 20,
  examples: { create: { name: "my-${of.name}" } },
  filters: z.object({ name: z.string().min(1).max(255).optional().describe("exact name") }),
  toQuery: ({ name }) => ({ ...(name !== undefined && { name }) }),
  create: {
    body: z.strictObject({ name: nameSchema, description: description.unwrap().optional() }),
    toInput: ({ name, ...spec }) => ({ name, spec }),
  },
  update: {
    body: z.strictObject({ name: nameSchema.optional(), description: description.unwrap().optional() }),
    toInput: ({ name, ...spec }) => ({ ...(name !== undefined && { name }), spec }),
  },
  deletes: true,
});
`;

export const testText = (of: NewKind): string => `
import t from "tap";
${of.dialect === "none" ? "" : `import { ${of.camel}Kind } from "#cp/dialects/${of.dialect}/${of.name}.ts";`}
import { exampleOf } from "#cp/resources/example.ts";
import {
  ${of.camel},
  ${of.camel}Phases,
  ${of.camel}Spec,
  type ${of.pascal},
} from "#cp/resources/${of.name}/${of.name}.resource.ts";

void t.test("a ${of.noun} takes what it should", async (t) => {
  t.same(${of.camel}Spec.parse({}), { description: "" });
  t.throws(() => ${of.camel}Spec.parse({ unknown: true }), "unknown fields are refused");
  t.throws(() => ${of.camel}Spec.parse({ description: 1 }));
});

void t.test("its phases follow from what is known of it", async (t) => {
  const example = exampleOf(${of.camel}) as ${of.pascal};
  t.equal(${of.camel}.phase(example), "available");
  t.equal(${of.camel}.phase({ ...example, deletingAt: new Date() }), "deleting");
  t.strictSame(Object.keys(${of.camel}.next).sort(), [...${of.camel}Phases].sort());
});
${of.dialect === "none" ? "" : dialectTest(of)}`;

const dialectTest = (of: NewKind): string => `
void t.test("${of.dialect} shows it", async (t) => {
  const example = exampleOf(${of.camel}) as ${of.pascal};
  for (const phase of ${of.camel}Phases) {
    const shown = ${of.camel}Kind.encode({ ...example, phase });
    t.same(${of.camel}Kind.wire.parse(shown), shown, phase);
  }
  const body = ${of.camel}Kind.create?.body.parse({ name: "one", description: "mine" });
  t.same(body && ${of.camel}Kind.create?.toInput(body), { name: "one", spec: { description: "mine" } });
  t.throws(() => ${of.camel}Kind.create?.body.parse({ name: "one", unknown: true }));
});
`;
