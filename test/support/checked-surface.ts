/** An API whose every answer is compared with its document on its way out: what differs is a bug, and told as one. */
import type { z } from "zod";
import type { Json } from "#kernel/fault.ts";
import type { Answer, Route, Surface } from "#cp/http/route.ts";
import { answerSchema, errorSchemaOf } from "./openapi.ts";

export function checkedSurface(surface: Surface, document: unknown): Surface {
  const schemas = new Map<string, z.ZodType | undefined>();
  const schemaFor = (key: string, make: () => z.ZodType | undefined) => {
    if (!schemas.has(key)) schemas.set(key, make());
    return schemas.get(key);
  };
  const compare = (what: string, schema: z.ZodType | undefined, body: Json) => {
    const issues = schema?.safeParse(JSON.parse(JSON.stringify(body))).error?.issues ?? [];
    if (issues.length === 0) return;
    const told = issues.map(({ path, message }) => `${path.join(".")}: ${message}`).join("; ");
    stray(`${what} is not as documented: ${told}`);
  };
  const check = ({ method, path, answers }: Route, answer: Answer) => {
    const { status } = answer;
    // An error that another replica has worded.
    if ("raw" in answer && status >= 400) return;
    const what = `${method} ${path} ${String(status)}`;
    if (!(status in answers)) stray(`${what} is not in the document`);
    if ("raw" in answer || answer.body === null) return;
    compare(
      what,
      schemaFor(what, () => answerSchema(document, method, path, status)),
      answer.body,
    );
  };
  const routes = surface.routes.map((route) => ({
    ...route,
    async handle(call: Parameters<Route["handle"]>[0]) {
      const answer = await route.handle(call);
      check(route, answer);
      return answer;
    },
  }));
  const encodeFault: Surface["encodeFault"] = (fault, context) => {
    const body = surface.encodeFault(fault, context);
    compare(
      `an error of ${surface.name}`,
      schemaFor("", () => errorSchemaOf(document)),
      body,
    );
    return body;
  };
  return { ...surface, routes, encodeFault };
}

/** The client sees a 500, which no test expects, and whoever runs the test why. */
function stray(message: string): never {
  process.stderr.write(`${message}\n`);
  throw new Error(message);
}
