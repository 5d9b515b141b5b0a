/** The page with the documents, in a browser that is only as much as it needs. */
import { createContext, runInContext } from "node:vm";
import t from "tap";
import { docsRoutes } from "#cp/http/docs.ts";
import { openApiDocument } from "#cp/http/openapi.ts";
import type { RawAnswer } from "#cp/http/route.ts";
import { dialects, native } from "#test/support/surfaces.ts";
import { until } from "#test/support/until.ts";

const surfaces = [native, ...dialects];
const documents = new Map(surfaces.map((surface) => [surface.name, openApiDocument(surface, "1.2.3")]));
const routes = docsRoutes([...documents.keys()]);

async function get(path: string): Promise<{ readonly text: string; readonly headers: RawAnswer["headers"] }> {
  const route = routes.find((each) => each.path === path);
  const { raw, headers } = (await route?.handle({} as never)) as RawAnswer;
  return { text: raw as string, headers };
}

/** As much of an element as the page uses. */
class Element {
  readonly attributes: Record<string, string> = {};
  readonly listeners = new Map<string, () => void>();
  readonly dataset: Record<string, string> = {};
  children: (Element | string)[] = [];
  value = "";
  open = false;

  setAttribute(name: string, value: string) {
    this.attributes[name] = value;
  }
  append(...children: (Element | string)[]) {
    this.children.push(...children);
  }
  replaceChildren(...children: (Element | string)[]) {
    this.children = children;
  }
  addEventListener(type: string, listener: () => void) {
    this.listeners.set(type, listener);
  }
  scrollIntoView() {}

  get text(): string {
    return this.children.map((child) => (typeof child === "string" ? child : child.text)).join(" ");
  }
  all(): Element[] {
    return [this, ...this.children.flatMap((child) => (typeof child === "string" ? [] : child.all()))];
  }
}

async function openPage(hash: string) {
  const { text: html } = await get("/docs");
  const parts = new Map(["documents", "content", "filter"].map((id) => [id, new Element()]));
  const body = new Element();
  body.dataset["documents"] = /data-documents="([^"]*)"/.exec(html)?.[1] ?? "";
  const content = parts.get("content") as Element;
  const page = {
    document: {
      body,
      createElement: () => new Element(),
      getElementById: (id: string) =>
        parts.get(id) ?? content.all().find(({ attributes }) => attributes["id"] === id),
    },
    location: { hash, origin: "http://127.0.0.1:8000" },
    addEventListener: () => undefined,
    fetch: async (path: string) => {
      const name = /^\/openapi\/(\w+)\.json$/.exec(path)?.[1] ?? "";
      return { ok: true, json: async () => documents.get(name) };
    },
  };
  runInContext((await get("/docs/docs.js")).text, createContext(page));
  await until(() => content.children.length > 0);
  return { content, filter: parts.get("filter") as Element };
}

await t.test("every operation of every document is there, and opens", async (t) => {
  for (const { name, routes } of surfaces) {
    const { content } = await openPage(`#${name}`);
    const shown = content.all().filter(({ listeners }) => listeners.has("toggle"));
    t.equal(shown.length, routes.length, name);
    for (const one of shown) one.listeners.get("toggle")?.();
    for (const { operationId, path } of routes) {
      t.ok(content.text.includes(path) && content.text.includes(`${operationId}, takes`), operationId);
    }
    t.notMatch(content.text, /undefined|\[object/, "all of it is text");
  }
});

await t.test("an address leads to an operation, and words choose some", async (t) => {
  const { content, filter } = await openPage("#atonix/resizeInstance");
  const opened = content.all().filter(({ open }) => open);
  t.strictSame(
    opened.map(({ attributes }) => attributes["id"]),
    ["atonix/resizeInstance"],
  );
  filter.value = "post KEY-PAIRS";
  filter.listeners.get("input")?.();
  await until(() => content.all().filter(({ listeners }) => listeners.has("toggle")).length === 1);
  t.match(content.text, "/v1/compute/key-pairs");
});

await t.test("the page takes nothing from elsewhere, and no markup from documents", async (t) => {
  const { text: html, headers } = await get("/docs");
  t.match(headers["Content-Security-Policy"], /^default-src 'none'; script-src 'self'; style-src 'self';/);
  t.notMatch(html, /https?:|<script>|style=|\son\w+=/, "no inline script or style, nothing remote");
  const { text: script } = await get("/docs/docs.js");
  t.notMatch(script, /innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?:/);
  t.notMatch((await get("/docs/docs.css")).text, /url\(|@import/);
  const linked = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, path]) => path);
  t.strictSame(linked.sort(), ["/docs/docs.css", "/docs/docs.js"]);
});
