/** Reads an OpenAPI document as a client would: does an answer have the form that the document promises? */
import { z } from "zod";

interface Message {
  readonly content?: Readonly<Record<string, { readonly schema?: object }>>;
}
interface Operation {
  readonly requestBody?: Message;
  readonly responses: Record<string, Message>;
}
interface Document {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
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
  return schemaOf(paths[path]?.[method.toLowerCase()]?.responses[String(status)], components.schemas);
}

/** The form of bodies that an operation takes; undefined when it takes none. */
export function bodySchema(document: unknown, method: string, path: string): z.ZodType | undefined {
  const { paths, components } = document as Document;
  return schemaOf(paths[path]?.[method.toLowerCase()]?.requestBody, components.schemas);
}

/** The form of the errors of all operations. */
export function errorSchemaOf(document: unknown): z.ZodType {
  return toSchema({ $ref: "#/components/schemas/Error" }, (document as Document).components.schemas);
}

function schemaOf(message: Message | undefined, components: object): z.ZodType | undefined {
  const schema = Object.values(message?.content ?? {})[0]?.schema;
  return schema && toSchema(schema, components);
}

function toSchema(schema: object, components: object): z.ZodType {
  const text = JSON.stringify({ ...schema, $defs: components }).replaceAll(
    "#/components/schemas/",
    "#/$defs/",
  );
  return z.fromJSONSchema(JSON.parse(text) as Parameters<typeof z.fromJSONSchema>[0]);
}
