// Shows the OpenAPI documents of this server. Everything comes from the server itself, and goes onto the page as
// text, never as markup. The address says what is shown: #<document>, or #<document>/<operationId>.
"use strict";

const names = document.body.dataset.documents.split(" ");
const content = document.getElementById("content");
const filter = document.getElementById("filter");
const loaded = new Map();

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const code = (text) => element("code", {}, text);
const block = (text) => element("pre", {}, text);
const json = (value) => JSON.stringify(value, null, 2);

function table(titles, rows) {
  const line = (tag) => (cells) => element("tr", {}, ...cells.map((cell) => element(tag, {}, cell)));
  return element("table", {}, line("th")(titles), ...rows.map(line("td")));
}

// A schema as one would write the value down: names, types, what may be left out.
function outline(schema, schemas, indent = "", seen = []) {
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    return seen.includes(name) ? name : outline(schemas[name] ?? {}, schemas, indent, [...seen, name]);
  }
  if (schema.const !== undefined) return json(schema.const);
  if (schema.enum) return schema.enum.map((value) => json(value)).join(" | ");
  const alternatives = schema.anyOf ?? schema.oneOf;
  if (alternatives) return alternatives.map((one) => outline(one, schemas, indent, seen)).join(" | ");
  if (schema.type === "array") return `[${outline(schema.items ?? {}, schemas, indent, seen)}, ...]`;
  const properties = Object.entries(schema.properties ?? {});
  if (properties.length === 0)
    return schema.type === "object" ? mapOf(schema, schemas, indent, seen) : typeOf(schema);
  const deeper = `${indent}  `;
  const lines = properties.map(([name, property]) => {
    const mark = schema.required?.includes(name) ? "" : "?";
    const note = property.description ? `  // ${property.description}` : "";
    return `${deeper}${name}${mark}: ${outline(property, schemas, deeper, seen)}${note}`;
  });
  return `{\n${lines.join("\n")}\n${indent}}`;
}

function mapOf({ additionalProperties }, schemas, indent, seen) {
  const values = typeof additionalProperties === "object" ? additionalProperties : undefined;
  return values ? `{<key>: ${outline(values, schemas, indent, seen)}}` : "{}";
}

function typeOf({ type, format, minimum, maximum, default: standard }) {
  const range = minimum === undefined && maximum === undefined ? "" : ` ${minimum ?? ""}..${maximum ?? ""}`;
  const otherwise = standard === undefined ? "" : ` = ${json(standard)}`;
  return `${[type ?? "any"].flat().join(" | ")}${format ? ` (${format})` : ""}${range}${otherwise}`;
}

function contentOf({ content = {} }, schemas) {
  return Object.entries(content).flatMap(([type, { schema, example, examples }]) => {
    const shown = example ?? Object.values(examples ?? {})[0]?.value;
    return [
      element("p", { class: "quiet" }, type),
      ...(schema ? [block(outline(schema, schemas))] : []),
      ...(shown === undefined ? [] : [element("p", { class: "quiet" }, "such as"), block(json(shown))]),
    ];
  });
}

function curl(method, path, { security, requestBody }) {
  const url = location.origin + path;
  const key = security?.length === 0 ? "" : ` \\\n  -H 'Authorization: Token <API key>'`;
  const body = requestBody ? ` \\\n  -H 'Content-Type: application/json' -d '{...}'` : "";
  return `curl -X ${method} '${url}'${key}${body}`;
}

function parametersOf({ parameters }) {
  if (!parameters?.length) return [];
  const rows = parameters.map(({ name, in: place, required, description, schema }) => [
    code(name),
    place,
    outline(schema ?? {}, {}),
    [required ? "needed" : "", description ?? ""].filter(Boolean).join("; "),
  ]);
  return [element("h4", {}, "Parameters"), table(["name", "in", "type", ""], rows)];
}

function detailsOf(method, path, operation, schemas) {
  const answers = Object.entries(operation.responses).sort(([a], [b]) => Number(a) - Number(b));
  const told = answers.filter(([status]) => Number(status) < 400);
  const errors = answers.filter(([status]) => Number(status) >= 400);
  return [
    element(
      "p",
      { class: "quiet" },
      `${operation.operationId}, takes ${operation["x-role"] ?? "nobody's leave"}`,
    ),
    block(curl(method, path, operation)),
    ...parametersOf(operation),
    ...(operation.requestBody
      ? [element("h4", {}, "Body"), ...contentOf(operation.requestBody, schemas)]
      : []),
    ...told.flatMap(([status, answer]) => [
      element("h4", {}, `${status}: ${answer.description}`),
      ...contentOf(answer, schemas),
    ]),
    element("h4", {}, "Errors"),
    table(
      ["status", ""],
      errors.map(([status, { description }]) => [status, description]),
    ),
  ];
}

function operationOf(name, method, path, operation, schemas) {
  const line = [element("span", { class: "method" }, method), code(path), ` ${operation.summary}`];
  const details = element(
    "details",
    { id: `${name}/${operation.operationId}` },
    element("summary", {}, ...line),
  );
  // Most are never opened: what is inside is made when they are.
  const fill = () => details.append(...detailsOf(method, path, operation, schemas));
  details.addEventListener("toggle", fill, { once: true });
  return details;
}

function show(name, api) {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const sections = api.tags.map(({ name: tag }) => {
    const found = Object.entries(api.paths).flatMap(([path, methods]) =>
      Object.entries(methods)
        .filter(([, operation]) => operation.tags.includes(tag))
        .filter(([method, { summary, operationId }]) => {
          const text = `${method} ${path} ${summary} ${operationId}`.toLowerCase();
          return words.every((word) => text.includes(word));
        })
        .map(([method, operation]) =>
          operationOf(name, method.toUpperCase(), path, operation, api.components.schemas),
        ),
    );
    return found.length === 0 ? [] : [element("h3", {}, tag), ...found];
  });
  const link = element("a", { href: `/openapi/${name}.json` }, "OpenAPI 3.1");
  content.replaceChildren(
    element("h2", {}, `${api.info.title} ${api.info.version}`),
    link,
    ...sections.flat(),
  );
}

async function load(name) {
  const known = loaded.get(name);
  if (known) return known;
  const response = await fetch(`/openapi/${name}.json`);
  if (!response.ok) throw new Error(`/openapi/${name}.json was answered with ${response.status}`);
  const api = await response.json();
  loaded.set(name, api);
  return api;
}

async function update() {
  const [asked, operationId] = location.hash.slice(1).split("/");
  const name = names.includes(asked) ? asked : names[0];
  const links = names.map((each) =>
    element("a", { href: `#${each}`, ...(each === name && { "aria-current": "page" }) }, each),
  );
  document.getElementById("documents").replaceChildren(...links);
  try {
    show(name, await load(name));
  } catch (error) {
    content.replaceChildren(element("p", {}, `The document cannot be shown: ${error.message}`));
    return;
  }
  const chosen = operationId && document.getElementById(`${name}/${operationId}`);
  if (!chosen) return;
  chosen.open = true;
  chosen.scrollIntoView();
}

addEventListener("hashchange", update);
filter.addEventListener("input", update);
update();
