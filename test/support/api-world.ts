/** The public API on a real database, without an engine: what is created stays pending. */
import type { AgentPort } from "#cp/agents/port.ts";
import { AccountStore } from "#cp/app/account-store.ts";
import { Accounts } from "#cp/app/accounts.ts";
import { Drains } from "#cp/app/drains.ts";
import { Adoption } from "#cp/app/adoption.ts";
import { ApiKeys } from "#cp/app/api-keys.ts";
import { AuditChain } from "#cp/app/audit-chain.ts";
import { AuditLog } from "#cp/app/audit.ts";
import { FleetOverview } from "#cp/app/fleet-overview.ts";
import { EdgeNodes } from "#cp/app/edge-nodes.ts";
import { Groups } from "#cp/app/groups.ts";
import { LostHosts } from "#cp/app/lost-hosts.ts";
import { IdentityStore } from "#cp/app/identity-store.ts";
import { seedFlavors } from "#cp/app/flavor-seeds.ts";
import { MetricsQuery } from "#cp/app/metrics-query.ts";
import { MigrationPlanner } from "#cp/app/migration-planner.ts";
import { PlacementReports } from "#cp/app/placement-reports.ts";
import { OidcLogin } from "#cp/app/oidc-login.ts";
import { OidcProvider, type OidcClient } from "#cp/app/oidc-provider.ts";
import { Passwords } from "#cp/app/passwords.ts";
import { Providers } from "#cp/app/providers.ts";
import { RelocationAdvice } from "#cp/app/relocation-advice.ts";
import { ResourceService } from "#cp/app/resource-service.ts";
import { Quotas } from "#cp/app/quota.ts";
import { RateLimits } from "#cp/app/rate-limits.ts";
import type { RateTable } from "#cp/app/rate-table.ts";
import { Sealer } from "#cp/app/sealer.ts";
import { SecondFactor } from "#cp/app/second-factor.ts";
import { SessionStore } from "#cp/app/session-store.ts";
import { SigningKeys } from "#cp/app/signing-keys.ts";
import { endsLogins, Tokens } from "#cp/app/tokens.ts";
import { Users } from "#cp/app/users.ts";
import { atonixSurface } from "#cp/dialects/atonix/surface.ts";
import { novacronSurface } from "#cp/dialects/novacron/surface.ts";
import { servicesSurface } from "#cp/dialects/services/surface.ts";
import { EventFeed } from "#cp/engine/events.ts";
import { CachedFleet } from "#cp/engine/fleet.ts";
import { changeResource, insertResource, lockResource } from "#cp/engine/rows.ts";
import { adoptionRoutes } from "#cp/http/adoptions.ts";
import { consoleRoutes } from "#cp/http/console.ts";
import { auditVerificationRoute } from "#cp/http/audit.ts";
import { directoryRoutes } from "#cp/http/directory.ts";
import { extraRoutes } from "#cp/http/extras.ts";
import { fleetRoutes } from "#cp/http/fleet.ts";
import { workloadRoutes } from "#cp/http/workloads.ts";
import { drainRoutes } from "#cp/http/drains.ts";
import { groupRoutes } from "#cp/http/groups.ts";
import { lostHostRoutes } from "#cp/http/lost-hosts.ts";
import { migrationRoutes } from "#cp/http/migrations.ts";
import { nativeSurface } from "#cp/http/native.ts";
import { oidcRoutes } from "#cp/http/oidc.ts";
import { openApiDocument } from "#cp/http/openapi.ts";
import type { Locate } from "#cp/http/relay.ts";
import { HttpServer } from "#cp/http/server.ts";
import { systemSurface, type ReadinessCheck } from "#cp/http/system.ts";
import { host } from "#cp/resources/host/host.resource.ts";
import { instance, type Instance, type InstanceStatus } from "#cp/resources/instance/instance.resource.ts";
import { kinds } from "#cp/resources/kinds.ts";
import { defaultPolicy } from "#cp/scheduler/default-policy.ts";
import { Database } from "#cp/store/database.ts";
import { Fault } from "#kernel/fault.ts";
import type { Role } from "#kernel/ctx.ts";
import { newId, newIdSuffix } from "#kernel/id.ts";
import { createLogger, silentLogger } from "#kernel/log.ts";
import { checkedSurface } from "./checked-surface.ts";
import { withDatabase, type Teardown } from "#test/support/postgres.ts";

export const username = "admin";
export const password = "correct horse battery staple";
export const hostId = newId("host");

/** How long the audit log is kept. */
export const auditKeptMs = 400 * 86_400_000;

export type LogLine = Readonly<Record<string, unknown>>;

export interface WorldOptions {
  readonly agents?: Partial<Pick<AgentPort, "attachConsole" | "readConsoleLog">>;
  readonly locate?: Locate;
  readonly checks?: readonly ReadinessCheck[];
  readonly deadlineMs?: number;
  readonly headersTimeoutMs?: number;
  readonly rates?: RateTable;
  /** Default: there is no identity provider. */
  readonly oidc?: OidcClient;
  /** Default: secrets are not sealed. */
  readonly secretKeyFile?: string;
}

/** Starts a server on a free port, with one user, one host and one image called `micro`. */
export async function startApi(t: Teardown, options: WorldOptions = {}) {
  const database = new Database({ url: await withDatabase(t), maxConnections: 8, log: silentLogger });
  const events = new EventFeed(database, silentLogger);
  events.start();
  const sealer = await Sealer.open(options.secretKeyFile ?? "");
  const resources = new ResourceService({ database, events, sealer, onChange: () => events.poke() });
  const clock = { offsetMs: 0 };
  const now = () => Date.now() + clock.offsetMs;
  const store = new AccountStore(database);
  const sessions = new SessionStore(database);
  const identities = new IdentityStore(database);
  const keys = await SigningKeys.open({ database, sealer, now });
  const tokens = new Tokens({ keys, identities, now });
  events.subscribe((seen) => {
    if (seen.some(endsLogins)) tokens.forget();
  });
  const secondFactor = new SecondFactor({ database, sealer, now });
  const passwords = new Passwords({ memoryCost: 64, timeCost: 1 });
  const accounts = new Accounts({ store, sessions, identities, passwords, secondFactor, tokens, now });
  await accounts.ensureFirst(username, password);
  const metrics = new MetricsQuery({ database, now });
  const policy = defaultPolicy({ cost: 1, distance: 1, packing: 1, spread: 1 });
  const fleet = new CachedFleet(database, policy, now);
  const planner = new MigrationPlanner({ database, fleet });
  const providers = new Providers({ fleet, policy });
  const lines: LogLine[] = [];
  const log = createLogger({ level: "info", write: (line) => lines.push(JSON.parse(line) as LogLine) });
  const uploads: { id: string; bytes: number }[] = [];
  const audit = new AuditLog(database);
  const auditChain = new AuditChain({ database, keys, keepMs: auditKeptMs, now });
  const users = new Users({ database, resources, store, sessions, passwords, secondFactor, tokens, now });
  const oidcRoutesOf = (client: OidcClient | undefined) => {
    const provider = client && new OidcProvider(client, now);
    return provider ? oidcRoutes(new OidcLogin({ database, accounts, sealer, provider, now })) : [];
  };
  const native = nativeSurface({
    kinds,
    resources,
    extras: [
      ...extraRoutes({
        version: "0.0.0-test",
        resources,
        metrics,
        placements: new PlacementReports({ database, fleet }),
        imageContent: {
          async upload(_ctx, id, content) {
            let bytes = 0;
            for await (const chunk of content as AsyncIterable<Uint8Array>) bytes += chunk.length;
            uploads.push({ id, bytes });
          },
        },
        enrolmentTokens: {
          create: async () => Promise.reject(new Fault("unavailable", "no gateway in this test")),
        },
        issueOperatorCertificate: async (_ctx, request) => ({ certificate: request, authorities: "" }),
      }),
      auditVerificationRoute(auditChain),
      ...directoryRoutes({
        users,
        secondFactor,
        signingKeys: keys,
        quotas: new Quotas(database),
        apiKeys: new ApiKeys({ database, store, tokens, sealer, now }),
      }),
      ...groupRoutes(new Groups({ database, resources, tokens })),
      ...oidcRoutesOf(options.oidc),
      ...drainRoutes(new Drains({ database, resources, log: silentLogger, now: Date.now })),
      ...lostHostRoutes(new LostHosts({ database, resources, quietMs: 9_000, onChange: () => undefined })),
      ...migrationRoutes({ resources, planner }),
      ...fleetRoutes(new FleetOverview({ database, fleet }), new RelocationAdvice({ database, fleet })),
      ...adoptionRoutes({ resources, adoption: new Adoption({ resources, database }) }),
      ...workloadRoutes({
        resources,
        agents: { readWorkloadLog: noConsole },
        locate: options.locate ?? (async () => ({ here: true })),
      }),
      ...consoleRoutes({
        resources,
        agents: { attachConsole: noConsole, readConsoleLog: noConsole, ...options.agents },
        locate: options.locate ?? (async () => ({ here: true })),
      }),
    ],
  });
  const novacron = novacronSurface({
    ...{ resources, accounts, users, audit, metrics, planner, providers },
    edge: new EdgeNodes(database),
  });
  const services = servicesSurface({ resources, metrics, accounts, authenticator: tokens });
  const surfaces = [native, novacron, atonixSurface({ resources }), services];
  const documents = Object.fromEntries(
    surfaces.map((surface) => [surface.name, openApiDocument(surface, "0.0.0-test")]),
  );
  const system = systemSurface({ checks: options.checks ?? [], documents, signingKeys: keys });
  const server = new HttpServer({
    surfaces: surfaces.map(checkedSurface),
    fallback: system,
    authenticator: tokens,
    audit,
    ...(options.rates && { rates: new RateLimits({ database, table: options.rates, log, now }) }),
    log,
    now,
    ...(options.deadlineMs !== undefined && { deadlineMs: options.deadlineMs }),
    ...(options.headersTimeoutMs !== undefined && { headersTimeoutMs: options.headersTimeoutMs }),
  });
  const { port } = await server.listen(0, "127.0.0.1");
  await insertResource(database, host, hostRow());
  await seedFlavors(database);
  t.teardown(async () => {
    await server.stop(500);
    await events[Symbol.asyncDispose]();
    await database[Symbol.asyncDispose]();
  });
  const url = `http://127.0.0.1:${String(port)}`;
  const pair = await accounts.login({ username, password });
  const call = caller(url, `Bearer ${pair.access_token}`);
  await call("POST", "/skerry/v1/images", { name: "micro", spec: { source: { type: "upload" } } });
  return {
    url,
    port,
    server,
    database,
    accounts,
    auditChain,
    sealer,
    tokens,
    keys,
    clock,
    lines,
    uploads,
    documents,
    surfaces: [...surfaces, system],
    pair,
    call,
    events,
  };
}
export type World = Awaited<ReturnType<typeof startApi>>;

export interface Answered {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Record<string, unknown>;
}

/** A function that sends JSON and reads JSON, with one identity. */
export const caller =
  (url: string, authorization?: string) =>
  async (
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = {},
  ): Promise<Answered> => {
    const response = await fetch(url + path, {
      method,
      headers: {
        ...(authorization !== undefined && { authorization }),
        ...(body !== undefined && { "content-type": "application/json" }),
        ...headers,
      },
      ...(body !== undefined && { body: typeof body === "string" ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    const parsed = text === "" ? {} : (JSON.parse(text) as Record<string, unknown>);
    return { status: response.status, headers: response.headers, body: parsed };
  };

/** Does what the engine does once an agent has reported: the instance runs on the host. */
export async function reportRunning(world: World, id: string): Promise<void> {
  await world.database.transaction(async (tx) => {
    const before = await lockResource(tx, id);
    if (!before) throw new Error(`no ${id}`);
    const { desired } = before as Instance;
    const observed: InstanceStatus = {
      host_id: hostId,
      state: desired.power === "on" ? "running" : "stopped",
      reason: "",
      message: "",
      cpus: desired.cpus,
      memory_bytes: desired.memory_bytes,
      disk_bytes: desired.disk_bytes,
      pending_restart: [],
      guest_address: "10.0.2.15",
      forwards: [],
      started_at: new Date().toISOString(),
      restarts: 0,
      crashes: 0,
      driver: "fake",
      acceleration: "none",
      image_bytes_done: 0,
      image_bytes_total: 0,
      migration: null,
    };
    const placement = { host_id: hostId, provider: "aws", region: "us-east-1", zone: "a", explanation: {} };
    const change = { observed, observedGeneration: before.generation, hostId, placement };
    await changeResource(tx, instance, before, change, silentLogger);
  });
  world.events.poke();
}

function noConsole(): never {
  throw new Fault("unavailable", "the host is not connected", { reason: "HOST_NOT_CONNECTED" });
}

const hostRow = () => ({
  id: hostId,
  project: "root",
  name: "site-a",
  labels: {},
  desired: {
    provider: "aws",
    region: "us-east-1",
    zone: "a",
    location: null,
    prices: null,
    overcommit: { cpus: 8, memory: 1.5, disk: 4 },
    cordoned: false,
  },
  observed: undefined,
  refs: {},
});

/** Asks for an instance and gives its id. */
export async function createInstance(world: World, name = "web"): Promise<string> {
  const wish = { name, spec: { image: "micro", cpus: 1 } };
  const { status, body } = await world.call("POST", "/skerry/v1/instances", wish);
  if (status !== 201) throw new Error(`${String(status)} ${JSON.stringify(body)}`);
  return String(body["id"]);
}

/** Makes a project and gives its id. */
export async function createProject(world: World, name = `team-${newIdSuffix()}`): Promise<string> {
  const { status, body } = await world.call("POST", "/skerry/v1/projects", { name, spec: {} });
  if (status !== 201) throw new Error(`${String(status)} ${JSON.stringify(body)}`);
  return String(body["id"]);
}

/** Makes a user with a role in a project, logs them in, and gives their caller. */
export async function signIn(
  world: World,
  { role, project = "root" }: { readonly role: Role; readonly project?: string },
) {
  const name = `${role}-${newIdSuffix()}`;
  const made = await world.call("POST", "/skerry/v1/users", { name, password });
  const id = String(made.body["id"]);
  await world.call("DELETE", `/skerry/v1/projects/root/members/${id}`);
  await world.call("PUT", `/skerry/v1/projects/${project}/members/${id}`, { role });
  const pair = await world.accounts.login({ username: name, password, project });
  return Object.assign(caller(world.url, `Bearer ${pair.access_token}`), { id, username: name, pair });
}
