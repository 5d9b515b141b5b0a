/** What the routes of one kind have in common. */
import { z } from "zod";
import type { Reply, ResourceApi } from "../app/resource-api.ts";
import type { AnyDefinition, Resource } from "../resources/definition.ts";
import { etagOf } from "./conditional.ts";
import { toNative } from "./native-json.ts";
import { integerParameter } from "./parameters.ts";

export interface KindRoutes {
  readonly kind: AnyDefinition;
  readonly resources: ResourceApi;
  readonly collection: string;
  readonly single: string;
  /** The schema of one, and its name in the document. */
  readonly one: { readonly name: string; readonly schema: z.ZodType };
}

const defaultWaitSeconds = 60;
const maxWaitSeconds = 300;
const handlerMs = 30_000;

/** `?wait` is a minute, `?wait=20` so many seconds. */
export const waitParameter = z
  .union([
    z.literal("").transform(() => defaultWaitSeconds),
    integerParameter({ min: 0, max: maxWaitSeconds, description: "" }),
  ])
  .optional()
  .meta({
    description: "answer when it has settled, or after so many seconds as it is then",
    parameter: { type: "integer", minimum: 0, maximum: maxWaitSeconds, default: defaultWaitSeconds },
  });
export const waitQuery = z.strictObject({ wait: waitParameter });
export type WaitQuery = z.infer<typeof waitQuery>;
/** A request that waits may take so much longer. */
export const waitDeadlineMs = (query: { readonly wait?: number | undefined }) =>
  handlerMs + (query.wait ?? 0) * 1000;

/** One resource as an answer, with its tag. */
export function reply(status: number, resource: Resource): Reply {
  return { status, headers: { ETag: etagOf(resource) }, body: toNative(resource) };
}

/** `enrolment_token` and `enrolment-tokens` as names of types and operations. */
export const pascal = (words: string) =>
  words.replace(/(?:^|[_-])(\w)/g, (_match, first: string) => first.toUpperCase());
