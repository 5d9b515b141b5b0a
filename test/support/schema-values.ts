/** Makes values from JSON schemas: such as they take, and such as nobody in his right mind would send. */
import fc from "fast-check";

export type JsonSchema = { readonly [keyword: string]: unknown };
type JsonObject = Record<string, unknown>;

export interface ValueSource {
  readonly random: () => number;
  /** The document's named schemas. */
  readonly named: Readonly<Record<string, JsonSchema>>;
  /** Something that answers have had under this name, if any did. */
  recall(name: string): unknown;
}

const maxDepth = 6;
const optionalShare = 0.4;
const recallShare = 0.6;
const defaultShare = 0.3;
const edgeShare = 0.2;

const nastyTexts = [
  "",
  " ",
  "'; drop table resource; --",
  "../../../../etc/passwd",
  "%00",
  "\u0000",
  "\ud800",
  "\u202e\u0007",
  "${jndi:ldap://x}",
  "a\r\nSet-Cookie: x=1",
  "x".repeat(5000),
  "constructor",
  "__proto__",
  "NaN",
  "null",
  "Ａ́🦭",
];
const nastyValues: readonly unknown[] = [
  ...nastyTexts,
  null,
  true,
  [],
  {},
  [[]],
  { a: { b: {} } },
  -1,
  0,
  0.5,
  1e308,
  2 ** 53,
  2 ** 63,
  4e9,
];
const formats: Readonly<Record<string, string>> = {
  email: "someone@example.com",
  "date-time": "2026-01-02T03:04:05Z",
  date: "2026-01-02",
  uri: "https://example.com/image.qcow2",
};

export class SchemaValues {
  readonly #source: ValueSource;
  readonly #patterns = new Map<string, readonly string[]>();

  constructor(source: ValueSource) {
    this.#source = source;
  }

  /** One of `items`. */
  pick<T>(items: readonly [T, ...T[]] | readonly T[]): T {
    return items[Math.floor(this.#source.random() * items.length)] as T;
  }

  chance(share: number): boolean {
    return this.#source.random() < share;
  }

  /** Something that is hardly right anywhere. */
  nasty = (): unknown => this.pick(nastyValues);

  nastyText = (): string => this.pick(nastyTexts);

  /** A value that the schema takes, as far as a schema tells. */
  valid(schema: JsonSchema, name: string, depth = maxDepth): unknown {
    const { $ref, anyOf, oneOf, allOf } = schema as Record<string, JsonSchema[] | undefined> & {
      $ref?: string;
    };
    if ($ref !== undefined) return this.valid(this.#named($ref), name, depth);
    if (schema["const"] !== undefined) return schema["const"];
    if (Array.isArray(schema["enum"])) return this.pick(schema["enum"] as unknown[]);
    const alternatives = anyOf ?? oneOf;
    if (alternatives) return this.valid(this.pick(alternatives), name, depth);
    if (allOf) return Object.assign({}, ...allOf.map((each) => this.valid(each, name, depth))) as unknown;
    if (schema["default"] !== undefined && this.chance(defaultShare)) return schema["default"];
    const types = [schema["type"] ?? "any"].flat() as string[];
    return this.#ofType(this.pick(types), schema, name, depth);
  }

  /** The same value with one thing in it changed, taken out or added. */
  spoil(value: unknown): unknown {
    const copy = structuredClone(value);
    const places = [...placesOf(copy)];
    if (places.length === 0) return this.nasty();
    const { at, key } = this.pick(places);
    const what = this.#source.random();
    if (what < 0.6) at[key] = this.nasty();
    else if (what < 0.8) Reflect.deleteProperty(at, key);
    else at[this.nastyText() || "surplus"] = this.nasty();
    return copy;
  }

  #named(ref: string): JsonSchema {
    return this.#source.named[ref.slice(ref.lastIndexOf("/") + 1)] ?? {};
  }

  #ofType(type: string, schema: JsonSchema, name: string, depth: number): unknown {
    switch (type) {
      case "object":
        return this.#object(schema, depth);
      case "array": {
        const least = Number(schema["minItems"] ?? 0);
        const most = Math.min(Number(schema["maxItems"] ?? Infinity), least + 2);
        const length = depth > 0 ? least + Math.floor(this.#source.random() * (most - least + 1)) : least;
        const items = (schema["items"] ?? {}) as JsonSchema;
        return Array.from({ length }, () => this.valid(items, name.replace(/s$/, ""), depth - 1));
      }
      case "integer":
      case "number":
        return this.#number(type, schema, name);
      case "boolean":
        return this.chance(0.5);
      case "null":
        return null;
      case "string":
        return this.#text(schema, name);
      default:
        return this.nasty();
    }
  }

  #object(schema: JsonSchema, depth: number): JsonObject {
    const properties = (schema["properties"] ?? {}) as Record<string, JsonSchema>;
    const required = (schema["required"] ?? []) as string[];
    const made: JsonObject = {};
    for (const [name, property] of Object.entries(properties)) {
      if (!required.includes(name) && (depth <= 0 || !this.chance(optionalShare))) continue;
      made[name] = this.valid(property, name, depth - 1);
    }
    const others = schema["additionalProperties"];
    if (typeof others === "object" && others !== null && this.chance(optionalShare)) {
      const names = (schema["propertyNames"] ?? { type: "string" }) as JsonSchema;
      made[String(this.valid(names, "key", depth))] = this.valid(others as JsonSchema, "value", depth - 1);
    }
    return made;
  }

  #number(type: string, schema: JsonSchema, name: string): number {
    const known = this.#recalled(name);
    if (typeof known === "number") return known;
    const above = schema["exclusiveMinimum"] === undefined ? 0 : 1;
    const least = Number(schema["minimum"] ?? schema["exclusiveMinimum"] ?? 0) + above;
    const most = Number(schema["maximum"] ?? schema["exclusiveMaximum"] ?? least + 1000);
    if (this.chance(edgeShare)) return this.chance(0.5) ? least : most;
    const step = Number(schema["multipleOf"] ?? (type === "integer" ? 1 : 0.5));
    const near = least + Math.floor(this.#source.random() * 4) * step;
    return Math.min(near, most);
  }

  #text(schema: JsonSchema, name: string): string {
    const known = this.#recalled(name);
    if (typeof known === "string") return known;
    const { pattern, format } = schema as { pattern?: string; format?: string };
    const formatted = format === undefined ? undefined : formats[format];
    if (formatted !== undefined) return formatted;
    if (pattern !== undefined) return this.pick(this.#matching(pattern));
    const least = Number(schema["minLength"] ?? 0);
    const most = Number(schema["maxLength"] ?? least + 20);
    if (this.chance(edgeShare / 2)) return "é".repeat(this.chance(0.5) ? least : Math.min(most, 2000));
    const word = `n${Math.floor(this.#source.random() * 1e6).toString(36)}`;
    return word.padEnd(least, "x").slice(0, most);
  }

  #recalled(name: string): unknown {
    return this.chance(recallShare) ? this.#source.recall(name) : undefined;
  }

  #matching(pattern: string): readonly string[] {
    let texts = this.#patterns.get(pattern);
    if (!texts) {
      const seed = Math.floor(this.#source.random() * 2 ** 31);
      texts = fc.sample(fc.stringMatching(new RegExp(pattern, "u")), { numRuns: 8, seed });
      this.#patterns.set(pattern, texts);
    }
    return texts;
  }
}

/** Every place in a value that something else could stand in. */
function* placesOf(value: unknown): Generator<{ readonly at: JsonObject; readonly key: string }> {
  if (typeof value !== "object" || value === null) return;
  for (const [key, member] of Object.entries(value)) {
    yield { at: value as JsonObject, key };
    yield* placesOf(member);
  }
}
