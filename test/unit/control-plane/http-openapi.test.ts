import t from "tap";
import { openApiDocument } from "#cp/http/openapi.ts";
import type { Surface } from "#cp/http/route.ts";
import { kinds } from "#cp/resources/kinds.ts";
import { dialects, native, novacron } from "#test/support/surfaces.ts";

type Document = {
  readonly openapi: string;
  readonly paths: Record<string, Record<string, Operation>>;
  readonly components: { readonly schemas: Record<string, unknown> };
};
type Operation = {
  readonly operationId: string;
  readonly security?: readonly unknown[];
  readonly parameters: readonly {
    name: string;
    in: string;
    required: boolean;
    schema: Record<string, unknown>;
  }[];
  readonly requestBody?: { readonly content: Record<string, { readonly schema?: unknown }> };
  readonly responses: Record<
    string,
    { readonly description: string; readonly content?: Record<string, unknown> }
  >;
};

const documentOf = (surface: Surface) => openApiDocument(surface, "1.2.3") as unknown as Document;

for (const surface of [native, ...dialects]) {
  void t.test(`the document of ${surface.name}`, async (t) => {
    const document = documentOf(surface);
    const text = JSON.stringify(document);
    t.equal(document.openapi, "3.1.0");

    const refs = new Set([...text.matchAll(/"\$ref":"([^"]+)"/g)].map(([, ref]) => ref ?? ""));
    t.ok(refs.size > 0);
    for (const ref of refs) {
      const name = ref.replace("#/components/schemas/", "");
      t.ok(name in document.components.schemas, `${ref} resolves`);
    }

    const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
    );
    const ids = operations.map(({ operation }) => operation.operationId);
    t.equal(new Set(ids).size, ids.length, "operation ids are unique");
    t.same(
      operations.map(({ path, method }) => `${method.toUpperCase()} ${path}`).sort(),
      surface.routes.map((route) => `${route.method} ${route.path}`).sort(),
      "the document has the routes, all of them and no others",
    );
    for (const { path, operation } of operations) {
      const named = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      const inPath = operation.parameters.filter((parameter) => parameter.in === "path");
      t.same(
        inPath.map((parameter) => parameter.name),
        named,
        path,
      );
      t.ok(
        Object.keys(operation.responses).some((status) => Number(status) < 400),
        `${path} can succeed`,
      );
      const keys = operation.parameters.map((parameter) => `${parameter.in} ${parameter.name}`);
      t.equal(new Set(keys).size, keys.length, "parameters are unique");
    }
    t.notMatch(text, /"parameter":/, "no internal metadata is left");
    t.equal(text, JSON.stringify(documentOf(surface)), "the same every time");
  });
}

void t.test("what the documents say", async (t) => {
  const { paths, components } = documentOf(native);
  const list = paths["/skerry/v1/instances"]?.["get"];
  t.match(
    list?.parameters.find((parameter) => parameter.name === "limit"),
    { required: false, schema: { type: "integer", minimum: 1, maximum: 1000, default: 100 } },
  );
  t.ok(list?.parameters.some((parameter) => parameter.name === "label.{key}"));
  t.ok(
    list?.parameters.some((parameter) => parameter.name === "provider"),
    "the kind's filters",
  );
  const create = paths["/skerry/v1/instances"]?.["post"];
  t.ok(create?.parameters.some((parameter) => parameter.name === "Idempotency-Key"));
  t.match(components.schemas["CreateInstanceBody"], {
    type: "object",
    required: ["name", "spec"],
    additionalProperties: false,
    properties: { spec: { properties: { cpus: { type: "integer", default: 1 } }, required: ["image"] } },
  });
  t.match(components.schemas["Instance"], { properties: { phase: { enum: ["pending"] } } });
  const login = documentOf(novacron).paths["/v1/auth/login"]?.["post"];
  t.same(login?.security, [], "nobody is logged in before the login");
  t.match(login?.responses["401"], { content: { "application/json": {} } });
  for (const kind of kinds) {
    const single = paths[`/skerry/v1/${kind.plural}/{id}`];
    t.ok(single?.["get"]);
    t.equal(single?.["patch"] !== undefined, kind.access.update !== undefined, `${kind.kind}: patch`);
    t.equal(single?.["delete"] !== undefined, kind.access.delete !== undefined, `${kind.kind}: delete`);
  }
});
