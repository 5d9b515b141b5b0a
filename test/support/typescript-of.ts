/** JSON schemas, as the product writes them, as TypeScript types. */
export interface Schema {
  readonly [keyword: string]: unknown;
  readonly $ref?: string;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly type?: unknown;
  readonly items?: Schema;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: unknown;
  readonly required?: readonly string[];
  readonly description?: string;
}

export const quote = (text: string): string => JSON.stringify(text);
/** Each part once, also where a part is a union itself. */
export const union = (parts: readonly string[]): string => {
  const words = parts.flatMap((part) => (/[{(<]/.test(part) ? [part] : part.split(" | ")));
  return [...new Set(words)].join(" | ") || "never";
};
export const pascal = (text: string): string =>
  text.replace(/(?:^|[_-])([a-z])/g, (_match, letter: string) => letter.toUpperCase());
export const camel = (text: string): string =>
  text.replace(/[_-]([a-z])/g, (_match, letter: string) => letter.toUpperCase());
export const doc = (text: string | undefined): string =>
  text ? `/** ${text.replaceAll("*/", "* /")} */\n` : "";

/** Gives the name of the type that a `$ref` leads to. */
export type Refer = (ref: string) => string;

const noRefs: Refer = (ref) => {
  throw new Error(`nobody knows ${ref}`);
};

/** The type of what the schema lets through. */
export function typeOf(schema: Schema, refer: Refer = noRefs): string {
  if (schema.$ref !== undefined) return refer(schema.$ref);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return union(schema.enum.map((value) => JSON.stringify(value)));
  const alternatives = schema.anyOf ?? schema.oneOf;
  if (alternatives) return union(alternatives.map((each) => typeOf(each, refer)));
  const { type } = schema; // may be a list, such as ["string", "null"]
  if (Array.isArray(type)) return union(type.map((each: string) => typeOf({ ...schema, type: each }, refer)));
  switch (type) {
    case "string":
    case "boolean":
    case "null":
      return type;
    case "integer":
    case "number":
      return "number";
    case "array":
      return `readonly (${typeOf(schema.items ?? {}, refer)})[]`;
    case "object":
      return objectOf(schema, refer);
    case undefined:
      return "Json";
  }
  throw new Error(`no TypeScript for ${JSON.stringify(schema)}`);
}

function objectOf(schema: Schema, refer: Refer): string {
  const properties = Object.entries(schema.properties ?? {});
  if (properties.length === 0 && typeof schema.additionalProperties === "object") {
    return `Readonly<Record<string, ${typeOf(schema.additionalProperties as Schema, refer)}>>`;
  }
  if (properties.length === 0) return "Readonly<Record<string, never>>";
  const members = properties.map(([name, property]) => {
    const optional = schema.required?.includes(name) ? "" : "?";
    return `${doc(property.description)}readonly ${name}${optional}: ${typeOf(property, refer)};`;
  });
  return `{\n${members.join("\n")}\n}`;
}

/** Declares a named type: an interface where TypeScript has one for it. */
export function declare(name: string, schema: Schema, refer: Refer = noRefs): string {
  const type = typeOf(schema, refer);
  return type.startsWith("{") ? `export interface ${name} ${type}` : `export type ${name} = ${type};`;
}
