/**
 * An API whose every answer is compared, on its way out, with what its document is made of: what differs is a bug, and
 * told as one. That is cheaper than to read the document itself, which the tests of the contract and the fuzzer do.
 */
import { isDeepStrictEqual } from "node:util";
import type { z } from "zod";
import type { Json } from "#kernel/fault.ts";
import type { Answer, Route, Surface } from "#cp/http/route.ts";

export function checkedSurface(surface: Surface): Surface {
  const check = ({ method, path, answers }: Route, answer: Answer) => {
    // An error that another replica has worded.
    if ("raw" in answer && answer.status >= 400) return;
    const what = `${method} ${path} ${String(answer.status)}`;
    const documented = answers[answer.status];
    if (!documented) stray(`${what} is not in the document`);
    if ("raw" in answer || answer.body === null || !documented.schema) return;
    compare(what, documented.schema, answer.body);
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
    compare(`an error of ${surface.name}`, surface.errorSchema, body);
    return body;
  };
  return { ...surface, routes, encodeFault };
}

function compare(what: string, schema: z.ZodType, body: Json): void {
  // Schemas leave out this name, which callers may have sent and are told of.
  const drop = (name: string, value: unknown) => (name === "__proto__" ? undefined : value);
  const sent = JSON.parse(JSON.stringify(body), drop) as Json;
  const { data, error } = schema.safeParse(sent);
  const told = error?.issues.map(({ path, message }) => `${path.join(".")}: ${message}`).join("; ");
  if (told !== undefined) stray(`${what} is not as documented: ${told}`);
  // Fields that the schema does not have are not in what it gives.
  if (!isDeepStrictEqual(data, sent)) {
    stray(`${what} has more than is documented: ${JSON.stringify(sent)}, ${JSON.stringify(data)}`);
  }
}

/** The client sees a 500, which no test expects, and whoever runs the test why. */
function stray(message: string): never {
  process.stderr.write(`${message}\n`);
  throw new Error(message);
}
