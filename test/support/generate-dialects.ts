/** The SDK's clients of the dialects, made of their OpenAPI documents: see generate-sdk.ts, which writes them. */
import path from "node:path";
import { format } from "prettier";
import { openApiDocument } from "#cp/http/openapi.ts";
import { root } from "#cp/local/programs.ts";
import { dialects } from "./surfaces.ts";
import { camel, declare, doc, pascal, typeOf, union, type Refer, type Schema } from "./typescript-of.ts";

export const generatedDialectsPath = path.join(root, "sdk/dialects/generated.ts");

interface Content {
  readonly content?: Readonly<Record<string, { readonly schema?: Schema }>>;
}
interface Parameter {
  readonly name: string;
  readonly in: string;
  readonly required: boolean;
  readonly description?: string;
  readonly schema: Schema;
}
interface Operation {
  readonly operationId: string;
  readonly summary: string;
  readonly parameters: readonly Parameter[];
  readonly requestBody?: Content & { readonly required: boolean };
  readonly responses: Readonly<Record<string, Content>>;
}
interface Document {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> };
}

const refPrefix = "#/components/schemas/";
/** What describes other operations is for browsers; its answer and errors reach no caller of the SDK. */
const hidden = ["Error", "Description"];

/** One dialect, while it is written. */
class Dialect {
  readonly name: string;
  readonly #document: Document;

  constructor(name: string, document: Document) {
    this.name = name;
    this.#document = document;
  }

  /** The types of its components, and its client as an interface. */
  declarations(): string {
    const { schemas } = this.#document.components;
    const types = Object.entries(schemas)
      .filter(([name, schema]) => !hidden.includes(name) && !isEmpty(schema))
      .map(([name, schema]) => declare(this.#typeName(name), schema, this.#refer));
    const methods = this.#operations().map(([, , operation, method]) => this.#method(operation, method));
    return [...types, `export interface ${pascal(this.name)} {\n${methods.join("\n")}\n}`].join("\n\n");
  }

  /** What its client needs to know at run time. */
  table(): string {
    const rows = this.#operations().map(([path, , operation, method]) => {
      const input = this.#input(operation)?.name;
      return `${operation.operationId}: ${JSON.stringify([method.toUpperCase(), path, ...(input ? [input] : [])])}`;
    });
    return `${this.name}: {\n${rows.join(",\n")}\n}`;
  }

  #operations() {
    return Object.entries(this.#document.paths).flatMap(([path, methods]) =>
      Object.entries(methods)
        .filter(([method]) => method !== "options")
        .map(([method, operation]) => [path, methods, operation, method] as const),
    );
  }

  #typeName(component: string): string {
    return `${pascal(this.name)}${component}`;
  }

  readonly #refer: Refer = (ref) => this.#typeName(ref.slice(refPrefix.length));

  #method(operation: Operation, method: string): string {
    const inPath = operation.parameters.filter((parameter) => parameter.in === "path");
    const input = this.#input(operation);
    const given = [
      ...inPath.map(({ name }) => `${camel(name)}: string`),
      ...(input ? [`${input.name}${input.required ? "" : "?"}: ${input.type}`] : []),
      `options?: ${method === "get" ? "CallOptions" : "ChangeOptions"}`,
    ];
    const { operationId, summary } = operation;
    return `${doc(summary)}${operationId}(${given.join(", ")}): Promise<${this.#answer(operation)}>;`;
  }

  /** What goes into the body, else into the query. */
  #input({ parameters, requestBody }: Operation) {
    const body = requestBody?.content?.["application/json"]?.schema;
    const empty = body?.$ref !== undefined && isEmpty(this.#component(body.$ref));
    if (requestBody && body && !empty) {
      return { name: "body", required: requestBody.required, type: typeOf(body, this.#refer) };
    }
    const inQuery = parameters.filter((parameter) => parameter.in === "query");
    if (inQuery.length === 0) return undefined;
    const required = inQuery.filter((parameter) => parameter.required).map(({ name }) => name);
    const properties = inQuery.map(({ name, description, schema }) => [
      name,
      { ...schema, ...(description !== undefined && { description }) },
    ]);
    const shape = {
      type: "object",
      required,
      properties: Object.fromEntries(properties) as Record<string, Schema>,
    };
    return { name: "query", required: required.length > 0, type: typeOf(shape, this.#refer) };
  }

  #component(ref: string): Schema {
    return this.#document.components.schemas[ref.slice(refPrefix.length)] ?? {};
  }

  #answer({ responses }: Operation): string {
    const types = Object.entries(responses)
      .filter(([status]) => status.startsWith("2"))
      .map(([, { content }]) => {
        const schema = Object.values(content ?? {})[0]?.schema;
        return schema ? typeOf(schema, this.#refer) : "undefined";
      });
    return union(types);
  }
}

const isEmpty = ({ type, properties, additionalProperties }: Schema): boolean =>
  type === "object" && Object.keys(properties ?? {}).length === 0 && additionalProperties === false;

/** The whole generated file, formatted. */
export async function generateDialects(): Promise<string> {
  const all = dialects.map(
    (surface) => new Dialect(surface.name, openApiDocument(surface, "") as unknown as Document),
  );
  const bodies = all.map((dialect) => dialect.declarations());
  const json = bodies.some((text) => /\bJson\b/.test(text))
    ? 'import type { Json } from "#kernel/fault.ts";\n'
    : "";
  const source = [
    "// Generated by test/support/generate-sdk.ts from the OpenAPI documents of the dialects. Do not edit.",
    `${json}import type { CallOptions } from "../transport.ts";
    import type { ChangeOptions, Operations } from "./client.ts";`,
    ...bodies,
    `/** Every client of a dialect by its name. */\nexport interface Dialects {
      ${dialects.map(({ name }) => `readonly ${name}: ${pascal(name)};`).join("\n")}
    }`,
    `/** Method, path, and what the argument after the path's own goes into. */
    export const dialects: { readonly [Name in keyof Dialects]: Operations<Dialects[Name]> } = {
      ${all.map((dialect) => dialect.table()).join(",\n")}
    };`,
  ].join("\n\n");
  return format(source, { parser: "typescript", printWidth: 110 });
}
