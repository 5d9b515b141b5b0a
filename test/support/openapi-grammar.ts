/** What an OpenAPI 3.1 document may consist of, as far as ours use it: a field that is not named here is a mistake. */
import { z } from "zod";

const json = z.unknown();
const schema = z.union([z.boolean(), z.record(z.string(), json)]);
const media = z.strictObject({ schema: schema.optional(), example: json.optional() });
const content = z.record(z.string().regex(/^[\w.+-]+\/[\w.+*-]+(; [\w-]+=[\w-]+)?$/), media);
const parameter = z
  .strictObject({
    name: z.string().min(1),
    in: z.enum(["path", "query", "header"]),
    required: z.boolean().optional(),
    description: z.string().optional(),
    explode: z.boolean().optional(),
    allowEmptyValue: z.boolean().optional(),
    schema,
  })
  .refine(({ in: place, required }) => place !== "path" || required === true, "a path parameter is required");
const securityRequirement = z.record(z.string(), z.array(z.string()));
const operation = z.looseObject({
  operationId: z.string().regex(/^\w+$/),
  summary: z.string(),
  description: z.string().optional(),
  tags: z.array(z.string()).min(1),
  parameters: z.array(parameter).optional(),
  requestBody: z
    .strictObject({ required: z.boolean().optional(), description: z.string().optional(), content })
    .optional(),
  responses: z.record(
    z.string().regex(/^[1-5]\d\d$/),
    z.strictObject({ description: z.string(), content: content.optional(), headers: json.optional() }),
  ),
  security: z.array(securityRequirement).optional(),
});
const methods = ["get", "put", "post", "delete", "options", "patch"] as const;
const document = z.strictObject({
  openapi: z.literal("3.1.0"),
  info: z.strictObject({
    title: z.string(),
    version: z.string(),
    description: z.string().optional(),
    license: z.strictObject({ name: z.string(), identifier: z.string() }).optional(),
  }),
  servers: z.array(z.strictObject({ url: z.string(), description: z.string().optional() })),
  tags: z.array(z.strictObject({ name: z.string(), description: z.string().optional() })),
  paths: z.record(z.string().startsWith("/"), z.partialRecord(z.enum(methods), operation)),
  components: z.strictObject({
    schemas: z.record(z.string().regex(/^[\w.-]+$/), schema),
    securitySchemes: z.record(
      z.string(),
      z.looseObject({ type: z.enum(["http", "apiKey", "openIdConnect", "oauth2"]) }),
    ),
  }),
  security: z.array(securityRequirement),
});

/** Everything that makes it no valid document; an empty list is good. */
export function documentProblems(given: unknown): string[] {
  const parsed = document.safeParse(given);
  if (!parsed.success) {
    return parsed.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
  }
  const { paths, components, tags, security } = parsed.data;
  const problems: string[] = [];
  const ids = new Set<string>();
  for (const [path, item] of Object.entries(paths)) {
    for (const [method, described] of Object.entries(item)) {
      const { operationId, parameters = [], ...rest } = described;
      const place = `${method} ${path}`;
      if (ids.has(operationId)) problems.push(`${place}: ${operationId} is there twice`);
      ids.add(operationId);
      const known = new Set(Object.keys(rest).filter((key) => !key.startsWith("x-")));
      for (const key of known) if (!(key in operation.shape)) problems.push(`${place}: ${key} is unknown`);
      const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      const told = parameters.filter(({ in: where }) => where === "path").map(({ name }) => name);
      if (inPath.join() !== told.join())
        problems.push(`${place}: its path has ${inPath.join()}, it tells ${told.join()}`);
      const keys = parameters.map(({ in: where, name }) => `${where} ${name}`);
      if (new Set(keys).size !== keys.length) problems.push(`${place}: a parameter is there twice`);
      for (const tag of rest.tags) {
        if (!tags.some(({ name }) => name === tag)) problems.push(`${place}: the tag ${tag} is nowhere`);
      }
    }
  }
  for (const name of security.flatMap((requirement) => Object.keys(requirement))) {
    if (!(name in components.securitySchemes)) problems.push(`the security scheme ${name} is nowhere`);
  }
  for (const [, name = ""] of JSON.stringify(given).matchAll(/"\$ref":"#\/components\/schemas\/([^"/]+)"/g)) {
    if (!(name in components.schemas)) problems.push(`the schema ${name} is nowhere`);
  }
  return problems;
}
