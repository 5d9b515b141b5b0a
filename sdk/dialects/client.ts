/**
 * Clients of the compatible APIs: one method for each documented operation, which takes what the path, then
 * what the query or the body holds. Retries, idempotency keys, time limits and faults are the transport's.
 */
import type { Call, CallOptions, QueryValue, Transport } from "../transport.ts";

export interface ChangeOptions extends CallOptions {
  /** An ETag: the change is refused as `stale` when the thing has another one by now. */
  readonly ifMatch?: string | undefined;
  /** Repeating a call with the same key gives the first call's answer. Default: a new key. */
  readonly idempotencyKey?: string | undefined;
}

export type Operation = readonly [method: Call["method"], path: string, input?: "query" | "body"];

/** The operations behind a client's methods. */
export type Operations<Client> = Readonly<Record<keyof Client, Operation>>;

/** Makes the client of one dialect. */
export function createDialect<Client>(transport: Transport, operations: Operations<Client>): Client {
  const methods = Object.entries<Operation>(operations).map(([name, operation]) => [
    name,
    (...given: readonly unknown[]) => transport.json(toCall(operation, given)),
  ]);
  return Object.fromEntries(methods) as Client;
}

function toCall([method, path, input]: Operation, given: readonly unknown[]): Call {
  const rest = [...given];
  const filled = path.replace(/\{\w+\}/g, () => encodeURIComponent(String(rest.shift())));
  const value = input && rest.shift();
  const { ifMatch, ...options } = (rest.shift() ?? {}) as ChangeOptions;
  return {
    ...options,
    method,
    path: filled,
    ...(ifMatch !== undefined && { headers: { "if-match": ifMatch } }),
    ...(input === "query" && value !== undefined && { query: value as Record<string, QueryValue> }),
    // Operations without fields of their own take an empty object as well as none.
    ...(input === "body" && { body: value ?? {} }),
  };
}
