/** Bodies that satisfy a schema, with nothing in them that may be left out. */
import { z } from "zod";

type Schema = z.core.JSONSchema.BaseSchema;

/** The smallest value that a schema takes, as far as its JSON schema tells. */
export function sampleOf(type: z.ZodType): unknown {
  return sample(z.toJSONSchema(type, { io: "input", unrepresentable: "any" }));
}

function sample(schema: Schema): unknown {
  if (schema.const !== undefined) return schema.const;
  if (schema.default !== undefined) return schema.default;
  if (schema.enum) return schema.enum[0];
  const alternative = (schema.anyOf ?? schema.oneOf)?.[0];
  if (alternative) return sample(alternative);
  switch (schema.type) {
    case "object":
      return Object.fromEntries(
        (schema.required ?? []).map((name) => [name, sample((schema.properties?.[name] ?? {}) as Schema)]),
      );
    case "array":
      return Array.from({ length: schema.minItems ?? 0 }, () => sample((schema.items ?? {}) as Schema));
    case "integer":
    case "number":
      return schema.minimum ?? 1;
    case "boolean":
      return true;
    case "null":
      return null;
    case "string":
    case undefined:
      return schema.format === "email" ? "a@example.com" : "x".repeat(Math.max(schema.minLength ?? 0, 8));
  }
}
