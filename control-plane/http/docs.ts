/** The page that shows the OpenAPI documents: three files of our own, nothing from elsewhere. */
import { readFile } from "node:fs/promises";
import { defineRoute, type Route } from "./route.ts";

const files = {
  "/docs": { file: "index.html", contentType: "text/html; charset=utf-8", operationId: "getDocs" },
  "/docs/docs.js": {
    file: "docs.js",
    contentType: "text/javascript; charset=utf-8",
    operationId: "getDocsScript",
  },
  "/docs/docs.css": { file: "docs.css", contentType: "text/css; charset=utf-8", operationId: "getDocsStyle" },
} as const;

const headers = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  // It may change with the next release, whose documents it shows.
  "Cache-Control": "no-cache",
};

/** @param documents their names, in the order in which they are offered */
export function docsRoutes(documents: readonly string[]): Route[] {
  return Object.entries(files).map(([path, { file, contentType, operationId }]) =>
    defineRoute({
      method: "GET",
      path,
      operationId,
      summary: `The page that shows the APIs: ${file}`,
      tag: "system",
      role: "anyone",
      answers: { 200: { description: "the file", contentType } },
      async handle() {
        const text = await readFile(new URL(`docs/${file}`, import.meta.url), "utf8");
        const raw = text.replace('data-documents=""', `data-documents="${documents.join(" ")}"`);
        return { status: 200, headers: { ...headers, "Content-Type": contentType }, raw };
      },
    }),
  );
}
