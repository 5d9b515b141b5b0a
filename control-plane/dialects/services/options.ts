/** OPTIONS on every path: what it is for, which methods it takes, and the fields of their bodies. */
import { z } from "zod";
import { defineRoute, type Route } from "../../http/route.ts";

const field = z.object({
  type: z.string(),
  required: z.boolean(),
  help_text: z.string(),
});
const description = z.object({
  name: z.string(),
  description: z.string(),
  renders: z.array(z.string()),
  parses: z.array(z.string()),
  allow: z.array(z.string()),
  actions: z.record(z.string(), z.record(z.string(), field)),
});

/** One more route for each path of the others. It tells what the OpenAPI document tells, so anyone may ask. */
export function optionsRoutes(routes: readonly Route[]): Route[] {
  const paths = [...new Set(routes.map(({ path }) => path))];
  return paths.map((path) =>
    optionsRoute(
      path,
      routes.filter((route) => route.path === path),
    ),
  );
}

function optionsRoute(path: string, group: readonly Route[]): Route {
  const [first] = group;
  const allow = [...group.map(({ method }) => method), "OPTIONS"];
  const actions = Object.fromEntries(
    group.flatMap(({ method, body }) => (body ? [[method, fieldsOf(body)] as const] : [])),
  );
  const body: z.infer<typeof description> = {
    name: first?.summary ?? "",
    description: group.map(({ method, summary }) => `${method}: ${summary}`).join("\n"),
    renders: ["application/json"],
    parses: ["application/json"],
    allow,
    actions,
  };
  return defineRoute({
    method: "OPTIONS",
    path,
    operationId: `describe_${first?.operationId ?? path}`,
    summary: "What this path takes",
    tag: first?.tag ?? "",
    role: "anyone",
    answers: { 200: { description: "the description", schema: description, name: "Description" } },
    handle: async () => ({ status: 200, headers: { Allow: allow.join(", ") }, body }),
  });
}

function fieldsOf(body: z.ZodType): Record<string, z.infer<typeof field>> {
  const { properties = {}, required = [] } = z.toJSONSchema(body, { io: "input", unrepresentable: "any" });
  const entries = Object.entries(properties).map(([name, property]) => {
    const { description: text = "" } = typeof property === "object" ? property : {};
    const told = { type: typeOf(property), required: required.includes(name), help_text: text };
    return [name, told] as const;
  });
  return Object.fromEntries(entries);
}

/** The JSON type of what may be given; `field` where there are several besides null. */
function typeOf(schema: z.core.JSONSchema._JSONSchema): string {
  if (typeof schema !== "object") return "field";
  if (typeof schema.type === "string") return schema.type;
  const [only, ...more] = (schema.anyOf ?? []).map(typeOf).filter((type) => type !== "null");
  return only !== undefined && more.length === 0 ? only : "field";
}
