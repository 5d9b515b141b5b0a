import type { Json } from "#kernel/fault.ts";
import type { DialectKind } from "./dialect.ts";

/** Declares a kind of a dialect; the types of its bodies and of its answers are inferred. */
export function defineKind<
  Spec,
  Status,
  const Phase extends string,
  Wire extends Json,
  Create = undefined,
  Update = undefined,
  Query = unknown,
>(
  kind: DialectKind<Spec, Status, Phase, Wire, Create, Update, Query>,
): DialectKind<Spec, Status, Phase, Wire, Create, Update, Query> {
  return kind;
}
