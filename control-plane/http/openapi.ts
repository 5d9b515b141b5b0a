/** OpenAPI 3.1 of a surface, made from the routes and schemas that serve it. */
import { z } from "zod";
import type { Json } from "#kernel/fault.ts";
import type { Route, Surface } from "./route.ts";

type JsonObject = { [name: string]: Json };

interface ErrorStatus {
  readonly description: string;
  /** Absent: it may happen anywhere. */
  readonly of?: (route: Route) => boolean;
}

const takesBody = ({ body, bodyDoc, streams }: Route) => (body ?? bodyDoc ?? streams) !== undefined;
const errorStatuses: Readonly<Record<string, ErrorStatus>> = {
  "400": { description: "the request is not valid" },
  "401": { description: "who is asking is not known" },
  "403": { description: "not allowed", of: ({ role }) => role !== "anyone" },
  "404": { description: "there is no such thing" },
  "409": { description: "the present state does not allow it" },
  "412": { description: "it is not as If-Match says any more", of: takesIfMatch },
  "413": { description: "the body is too large", of: takesBody },
  "415": { description: "the body is of another type", of: takesBody },
  "429": { description: "too many requests, see Retry-After; or more than the quota" },
  "503": { description: "a part that is needed cannot be reached now; see Retry-After" },
};

/** Makes the document of one surface. */
export function openApiDocument(surface: Surface, version: string): Json {
  const schemas = new Schemas();
  const error = schemas.refer("Error", surface.errorSchema, "output");
  const paths: Record<string, JsonObject> = {};
  for (const route of surface.routes) {
    const methods = (paths[route.path] ??= {});
    methods[route.method.toLowerCase()] = operation(route, schemas, surface, error);
  }
  return {
    openapi: "3.1.0",
    info: { title: surface.title, version, license: { name: "Apache-2.0", identifier: "Apache-2.0" } },
    servers: [{ url: "/" }],
    tags: [...new Set(surface.routes.map((route) => route.tag))].map((name) => ({ name })),
    paths,
    components: {
      schemas: schemas.all(),
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer", bearerFormat: "JWT" },
        apiKey: {
          type: "apiKey",
          in: "header",
          name: "Authorization",
          description: "`Token <API key>`",
        },
      },
    },
    security: [{ bearer: [] }, { apiKey: [] }],
  };
}

function operation(route: Route, schemas: Schemas, surface: Surface, error: JsonObject): JsonObject {
  const described: JsonObject = {
    operationId: route.operationId,
    summary: route.summary,
    tags: [route.tag],
    parameters: [...pathParameters(route), ...queryParameters(route), ...headerParameters(route)],
    responses: { ...answers(route, schemas), ...errors(route, surface, error) },
  };
  const body = requestBody(route, schemas);
  showExamples(route, described["responses"] as JsonObject, body);
  if (body) described["requestBody"] = body;
  if (route.role === "anyone") described["security"] = [];
  else described["x-role"] = route.role;
  return described;
}

/** Puts the route's examples beside the schemas that they are of. */
function showExamples({ examples }: Route, responses: JsonObject, body: JsonObject | undefined): void {
  const shown = [
    ...Object.entries(examples?.answers ?? {}).map(
      ([status, example]) => [responses[status], example] as const,
    ),
    ...(examples?.body === undefined ? [] : [[body, examples.body] as const]),
  ];
  for (const [message, example] of shown) {
    const { content = {} } = message as { content?: Record<string, JsonObject> };
    for (const media of Object.values(content)) media["example"] = example;
  }
}

function pathParameters(route: Route): JsonObject[] {
  return [...route.path.matchAll(/\{(\w+)\}/g)].map(([, name = ""]) => ({
    name,
    in: "path",
    required: true,
    schema: { type: "string" },
  }));
}

function queryParameters(route: Route): JsonObject[] {
  if (!route.query) return [];
  const shape = toJsonSchema(route.query, "input");
  const required = Array.isArray(shape["required"]) ? shape["required"] : [];
  const properties = Object.entries((shape["properties"] ?? {}) as Record<string, JsonObject>);
  return properties.map(([name, property]) => {
    const { description, explode, allowEmptyValue, ...schema } = property;
    const grouped = schema["type"] === "object";
    return {
      name: grouped ? `${name}.{key}` : name,
      in: "query",
      required: required.includes(name),
      ...(description !== undefined && { description }),
      ...(explode !== undefined && { explode }),
      ...(allowEmptyValue !== undefined && { allowEmptyValue }),
      schema: grouped ? { type: "string" } : schema,
    };
  });
}

function headerParameters(route: Route): JsonObject[] {
  if (!route.mutates) return [];
  const header = (name: string, description: string) => ({
    name,
    in: "header",
    required: false,
    description,
    schema: { type: "string" },
  });
  return [
    ...(route.method === "POST"
      ? [header("Idempotency-Key", "the same key and body again gives the first answer again")]
      : []),
    ...(takesIfMatch(route)
      ? [header("If-Match", "ETag that the change is meant for; 412 when it is stale")]
      : []),
  ];
}

/** A change of something that is there already. */
function takesIfMatch({ mutates, method, path }: Route): boolean {
  return mutates === true && !(method === "POST" && !path.includes("{"));
}

function requestBody(route: Route, schemas: Schemas): JsonObject | undefined {
  const { streams } = route;
  if (streams) {
    return { required: true, description: streams.description, content: { [streams.contentType]: {} } };
  }
  const schema = route.bodyDoc ?? route.body;
  if (!schema) return undefined;
  const name = `${route.operationId.charAt(0).toUpperCase()}${route.operationId.slice(1)}Body`;
  const required = !schema.safeParse({}).success;
  return { required, content: { "application/json": { schema: schemas.refer(name, schema, "input") } } };
}

function answers(route: Route, schemas: Schemas): JsonObject {
  return Object.fromEntries(
    Object.entries(route.answers).map(([status, { description, schema, name, parts, contentType }]) => {
      if (!schema) return [status, { description }];
      const shown =
        name === undefined ? schemas.inline(schema, parts ?? {}) : schemas.refer(name, schema, "output");
      return [
        status,
        {
          description,
          content: { [(contentType ?? "application/json").replace(/;.*$/, "")]: { schema: shown } },
        },
      ];
    }),
  );
}

function errors(route: Route, surface: Surface, error: JsonObject): JsonObject {
  const statuses = Object.entries(errorStatuses).filter(
    ([status, { of }]) => (of?.(route) ?? true) && !(Number(status) in route.answers),
  );
  const contentType = surface.errorContentType.replace(/;.*$/, "");
  return Object.fromEntries(
    statuses.map(([status, { description }]) => [
      status,
      { description, content: { [contentType]: { schema: error } } },
    ]),
  );
}

/** Named schemas, each written once. */
class Schemas {
  readonly #byName: Record<string, JsonObject> = {};

  refer(name: string, schema: z.ZodType, io: "input" | "output"): JsonObject {
    this.#byName[name] ??= toJsonSchema(schema, io);
    return { $ref: `#/components/schemas/${name}` };
  }

  /** The schema as it is, but that its parts are referred to by their names. */
  inline(schema: z.ZodType, parts: Readonly<Record<string, z.ZodType>>): JsonObject {
    const references = new Map(
      Object.entries(parts).map(([name, part]) => {
        const reference = this.refer(name, part, "output");
        return [JSON.stringify(this.#byName[name]), reference] as const;
      }),
    );
    const replace = (json: Json): Json => {
      if (Array.isArray(json)) return json.map(replace);
      if (typeof json !== "object" || json === null) return json;
      const reference = "properties" in json ? references.get(JSON.stringify(json)) : undefined;
      return (
        reference ?? Object.fromEntries(Object.entries(json).map(([key, value]) => [key, replace(value)]))
      );
    };
    return replace(toJsonSchema(schema, "output")) as JsonObject;
  }

  all(): JsonObject {
    return this.#byName;
  }
}

function toJsonSchema(schema: z.ZodType, io: "input" | "output"): JsonObject {
  const { $schema: _dialect, ...body } = z.toJSONSchema(schema, {
    io,
    target: "draft-2020-12",
    unrepresentable: "any",
    // A query parameter is text on the wire; its metadata say what the text stands for.
    override: ({ jsonSchema }) => {
      const { parameter } = jsonSchema;
      if (parameter === undefined) return;
      for (const key of ["parameter", "anyOf", "pattern", "enum", "format", "maxLength"])
        delete jsonSchema[key];
      Object.assign(jsonSchema, parameter);
    },
  });
  return body as JsonObject;
}
