/** The client of the native API. */
import type { Role } from "#kernel/ctx.ts";
import { auditExtras } from "./audit.ts";
import { createCollection, type CollectionOf } from "./collection.ts";
import { fixedCredentials, LoginCredentials, memoryStore, type TokenStore } from "./credentials.ts";
import { accountExtras, apiKeyExtras, groupExtras, projectExtras, userExtras } from "./directory.ts";
import { createDialect } from "./dialects/client.ts";
import { dialects, type Dialects } from "./dialects/generated.ts";
import { fleetExtras } from "./fleet.ts";
import {
  enrolmentTokenExtras,
  hostExtras,
  imageExtras,
  instanceExtras,
  keyPairExtras,
  workloadExtras,
} from "./extras.ts";
import { kinds, type Kinds } from "./kinds/generated.ts";
import { Transport, type CallOptions, type Credentials, type TransportOptions } from "./transport.ts";

export interface SkerryOptions extends Omit<TransportOptions, "credentials"> {
  /** A bearer token, as it is. */
  readonly token?: string | undefined;
  /** An API key. */
  readonly apiKey?: string | undefined;
  /** Logged in with at the first request, and again when the login has ended. */
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  /** Keeps a login between runs. Default: in memory. */
  readonly tokenStore?: TokenStore | undefined;
}

export interface Identity {
  readonly id: string;
  readonly username: string;
  /** `user` or `host`. */
  readonly kind: string;
  readonly project: string;
  readonly role: Role;
}

/**
 * A cloud. Each kind of resource is a collection:
 *
 *     const cloud = new Skerry({ url: "http://127.0.0.1:8000", apiKey });
 *     const { id } = await cloud.instances.create({ name: "web", spec: { image: "micro" } });
 *     await cloud.instances.waitFor(id, { phases: ["running"] });
 */
export class Skerry {
  readonly transport: Transport;
  readonly instances: CollectionOf<Kinds["instances"]> & ReturnType<typeof instanceExtras>;
  readonly migrations: CollectionOf<Kinds["migrations"]>;
  readonly images: CollectionOf<Kinds["images"]> & ReturnType<typeof imageExtras>;
  readonly workloads: CollectionOf<Kinds["workloads"]> & ReturnType<typeof workloadExtras>;
  readonly flavors: CollectionOf<Kinds["flavors"]>;
  readonly keyPairs: CollectionOf<Kinds["keyPairs"]> & ReturnType<typeof keyPairExtras>;
  readonly hosts: CollectionOf<Kinds["hosts"]> & ReturnType<typeof hostExtras>;
  readonly enrolmentTokens: CollectionOf<Kinds["enrolmentTokens"]> & ReturnType<typeof enrolmentTokenExtras>;
  readonly operations: CollectionOf<Kinds["operations"]>;
  readonly projects: CollectionOf<Kinds["projects"]> & ReturnType<typeof projectExtras>;
  readonly users: CollectionOf<Kinds["users"]> & ReturnType<typeof userExtras>;
  readonly groups: CollectionOf<Kinds["groups"]> & ReturnType<typeof groupExtras>;
  readonly prices: CollectionOf<Kinds["prices"]>;
  readonly apiKeys: ReturnType<typeof apiKeyExtras>;
  readonly account: ReturnType<typeof accountExtras>;
  readonly audit: ReturnType<typeof auditExtras>;
  readonly fleet: ReturnType<typeof fleetExtras>;
  /** The compatible APIs, for what speaks them already: an operation each method. */
  readonly atonix: Dialects["atonix"];
  readonly services: Dialects["services"];
  readonly novacron: Dialects["novacron"];

  constructor(options: SkerryOptions) {
    const credentials = credentialsOf(options);
    this.transport = new Transport({ ...options, ...(credentials && { credentials }) });
    const { transport } = this;
    const collection = <N extends keyof Kinds>(name: N) => this.collection(name);
    this.instances = Object.assign(collection("instances"), instanceExtras(transport));
    this.migrations = collection("migrations");
    this.images = Object.assign(collection("images"), imageExtras(transport));
    this.workloads = Object.assign(collection("workloads"), workloadExtras(transport));
    this.flavors = collection("flavors");
    const keyPairs = collection("keyPairs");
    this.keyPairs = Object.assign(keyPairs, keyPairExtras(keyPairs));
    this.hosts = Object.assign(collection("hosts"), hostExtras(transport));
    const tokens = collection("enrolmentTokens");
    this.enrolmentTokens = Object.assign(tokens, enrolmentTokenExtras(tokens));
    this.operations = collection("operations");
    this.projects = Object.assign(collection("projects"), projectExtras(transport));
    this.users = Object.assign(collection("users"), userExtras(transport));
    this.groups = Object.assign(collection("groups"), groupExtras(transport));
    this.prices = collection("prices");
    this.apiKeys = apiKeyExtras(transport, "/skerry/v1/api-keys");
    this.account = accountExtras(transport);
    this.audit = auditExtras(transport);
    this.fleet = fleetExtras(transport);
    this.atonix = createDialect(transport, dialects.atonix);
    this.services = createDialect(transport, dialects.services);
    this.novacron = createDialect(transport, dialects.novacron);
  }

  /** The resources of a kind, by the name of its collection: also of one that has no property here. */
  collection<N extends keyof Kinds>(name: N): CollectionOf<Kinds[N]> {
    return createCollection<Kinds[N]>(this.transport, kinds[name]);
  }

  /** Who the cloud takes the caller for. */
  whoami(options: CallOptions = {}): Promise<Identity> {
    return this.transport.required({ ...options, method: "GET", path: "/skerry/v1/whoami" });
  }
}

function credentialsOf(options: SkerryOptions): Credentials | undefined {
  const { token, apiKey, username, password, tokenStore } = options;
  if (token !== undefined) return fixedCredentials({ token });
  if (apiKey !== undefined) return fixedCredentials({ apiKey });
  const login = username !== undefined && password !== undefined ? { username, password } : undefined;
  if (!login && !tokenStore) return undefined;
  return new LoginCredentials({
    transport: new Transport(options),
    store: tokenStore ?? memoryStore(),
    ...(login && { password: login }),
  });
}
