/** One documented operation as it is tried out: what is sent, and the names and types of what comes back. */
import { z } from "zod";

/**
 * A type by a word, an object by its fields, a list by its item. A question mark: or null. After `=`, the very text. Fields that are
 * not named here may be there as well.
 */
export type Shape =
  | keyof typeof words
  | `${keyof typeof words}?`
  | `=${string}`
  | readonly [Shape]
  | { readonly [field: string]: Shape };

export interface Exchange {
  /** Method and path, as documented. `{name}` stands for what an exchange before has kept, or the world has. */
  readonly operation: string;
  readonly query?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Readonly<Record<string, unknown>>;
  readonly status: number;
  readonly answer: Shape;
  /** What later exchanges call a field of this answer, by the field's path. */
  readonly keep?: Readonly<Record<string, readonly string[]>>;
  /** What it tells comes about by and by: it is asked again until the answer fits. */
  readonly eventually?: true;
}

const words = {
  text: z.string(),
  int: z.int(),
  number: z.number(),
  flag: z.boolean(),
  time: z.iso.datetime(),
  decimal: z.string().regex(/^\d+\.\d+$/),
  texts: z.array(z.string()),
  map: z.record(z.string(), z.string()),
} as const;

/** A schema that takes what has the shape. */
export function schemaOf(shape: Shape): z.ZodType {
  if (typeof shape === "string") {
    if (shape.startsWith("=")) return z.literal(shape.slice(1));
    const schema = words[shape.replace("?", "") as keyof typeof words];
    return shape.endsWith("?") ? schema.nullable() : schema;
  }
  if (isList(shape)) return z.array(schemaOf(shape[0])).min(1);
  return z.looseObject(Object.fromEntries(Object.entries(shape).map(([name, of]) => [name, schemaOf(of)])));
}

const isList = (shape: Shape): shape is readonly [Shape] => Array.isArray(shape);
