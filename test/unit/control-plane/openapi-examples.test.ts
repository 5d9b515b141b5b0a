/** The documents of the compatible APIs are valid OpenAPI 3.1, and what they show as an example is one. */
import t from "tap";
import { openApiDocument } from "#cp/http/openapi.ts";
import { isBelow } from "#cp/http/route.ts";
import { answerSchema, bodySchema } from "#test/support/openapi.ts";
import { documentProblems } from "#test/support/openapi-grammar.ts";
import { dialects, native } from "#test/support/surfaces.ts";

for (const surface of [...dialects, native]) {
  void t.test(`the document of ${surface.name} is valid`, async (t) => {
    t.same(documentProblems(JSON.parse(JSON.stringify(openApiDocument(surface, "1")))), []);
    const astray = surface.routes.filter(({ path }) => !isBelow(surface.prefixes, path));
    t.same(
      astray.map(({ path }) => path),
      [],
      "its routes are below its prefixes: elsewhere their errors are another API's",
    );
  });
}

for (const surface of [...dialects, native]) {
  void t.test(`examples of ${surface.name}`, async (t) => {
    const document = openApiDocument(surface, "1");
    const missing: string[] = [];
    for (const { method, path, answers, examples = {}, body } of surface.routes) {
      const name = `${method} ${path}`;
      if (method === "OPTIONS") continue;
      const statuses = Object.entries(answers).filter(([status, { schema }]) => status < "300" && schema);
      const first = Number(statuses[0]?.[0]);
      if (statuses.length > 0 && !Object.keys(examples.answers ?? {}).length) missing.push(`${name} answer`);
      if (body && !body.safeParse({}).success && examples.body === undefined) missing.push(`${name} body`);
      for (const [status, example] of Object.entries(examples.answers ?? { [first]: undefined })) {
        const parsed = answerSchema(document, method, path, Number(status))?.safeParse(example);
        if (example !== undefined) t.same(parsed?.error?.issues ?? [], [], `${name} ${status}`);
      }
      if (examples.body === undefined) continue;
      t.same(bodySchema(document, method, path)?.safeParse(examples.body).error?.issues ?? [], [], name);
      t.same(body?.safeParse(examples.body).error?.issues ?? [], [], `${name}: the server takes it`);
    }
    if (surface !== native) t.same(missing, [], "nothing is without an example");
  });
}
