/** Puts examples beside the routes of one kind of thing: what one looks like, and what a page of them. */
import type { Json } from "#kernel/fault.ts";
import type { Route, RouteExamples } from "./route.ts";

export interface KindExamples {
  readonly one: Json;
  readonly page: Json;
  /** The operation that answers with a page. */
  readonly list: string;
  /** By operation. */
  readonly bodies: Readonly<Record<string, Json | undefined>>;
}

/** The routes with examples of all answers in JSON, and of the bodies that are given. */
export function withExamples(routes: readonly Route[], { one, page, list, bodies }: KindExamples): Route[] {
  return routes.map((route) => {
    const body = bodies[route.operationId];
    const answer = route.operationId === list ? page : one;
    const answers = Object.fromEntries(
      Object.entries(route.answers).flatMap(([status, { schema, contentType }]) =>
        schema && contentType === undefined ? [[status, answer] as const] : [],
      ),
    );
    const examples: RouteExamples = { ...(body !== undefined && { body }), answers };
    return { ...route, examples };
  });
}
