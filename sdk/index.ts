/** The SDK's public surface. Agents' own services are in `sdk/agent.ts`, which needs Node. */
export { Fault, isFault, faultCodes, type FaultCode, type Json } from "#kernel/fault.ts";
export { Skerry, type Identity, type SkerryOptions } from "./client.ts";
export type {
  Collection,
  CollectionOf,
  CreateBody,
  ListOptions,
  ListQuery,
  MutationOptions,
  UpdateBody,
  VerbMethods,
} from "./collection.ts";
export type { Console, ConsoleOptions } from "./console.ts";
export {
  beginOidcLogin,
  finishOidcLogin,
  login,
  memoryStore,
  type OidcLogin,
  type TokenStore,
  type Tokens,
} from "./credentials.ts";
export type { ChangeOptions } from "./dialects/client.ts";
export type * from "./dialects/generated.ts";
export type { HostUsage, Relocation } from "./fleet.ts";
export type {
  ConsoleLog,
  GeneratedKeyPair,
  IssuedEnrolmentToken,
  MetricsQuery,
  MigrationPlan,
  MigrationWish,
  OperatorCertificate,
} from "./extras.ts";
export * from "./kinds/generated.ts";
export type { KindInfo, KindTypes, Placement, Problem, Resource } from "./kinds/resource.ts";
export { Listing, type Page } from "./pages.ts";
export type { Socket, SocketFactory } from "./socket.ts";
export {
  newIdempotencyKey,
  Transport,
  type CallOptions,
  type Credentials,
  type RetryNotice,
} from "./transport.ts";
export type { WaitOptions } from "./waiters.ts";
export type { WatchEvent, WatchOptions } from "./watch.ts";
