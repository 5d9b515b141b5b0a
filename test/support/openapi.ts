/** Reads an OpenAPI document as a client would: does an answer have the form that the document promises? */
import { z } from "zod";

interface Response {
  readonly content?: Readonly<Record<string, { readonly schema?: object }>>;
}
interface Document {
  readonly paths: Readonly<
    Record<string, Readonly<Record<string, { readonly responses: Record<string, Response> }>>>
  >;
  readonly components: { readonly schemas: object };
}

/** Whether the document has the operation. */
export function hasOperation(document: unknown, method: string, path: string): boolean {
  return (document as Document).paths[path]?.[method.toLowerCase()] !== undefined;
}

/** The promised form of an answer; undefined when that status has none. */
export function answerSchema(
  document: unknown,
  method: string,
  path: string,
  status: number,
): z.ZodType | undefined {
  const { paths, components } = document as Document;
  const content = paths[path]?.[method.toLowerCase()]?.responses[String(status)]?.content;
  const schema = Object.values(content ?? {})[0]?.schema;
  return schema && toSchema(schema, components.schemas);
}

/** The form of the errors of all operations. */
export function errorSchemaOf(document: unknown): z.ZodType {
  return toSchema({ $ref: "#/components/schemas/Error" }, (document as Document).components.schemas);
}

function toSchema(schema: object, components: object): z.ZodType {
  const text = JSON.stringify({ ...schema, $defs: components }).replaceAll(
    "#/components/schemas/",
    "#/$defs/",
  );
  return z.fromJSONSchema(JSON.parse(text) as Parameters<typeof z.fromJSONSchema>[0]);
}
