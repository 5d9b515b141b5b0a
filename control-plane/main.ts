/** The control plane as a process: wiring only. */
import "reflect-metadata";
import { readFile } from "node:fs/promises";
import process from "node:process";
import { z } from "zod";
import { batchLines, createLogger, type Logger } from "#kernel/log.ts";
import { defaultEgressPolicy } from "#kernel/egress.ts";
import { Fault, toFault } from "#kernel/fault.ts";
import { newId } from "#kernel/id.ts";
import { printSettings } from "#kernel/settings.ts";
import { AccountStore } from "./app/account-store.ts";
import { Accounts } from "./app/accounts.ts";
import { Adoption } from "./app/adoption.ts";
import { ApiKeys } from "./app/api-keys.ts";
import { EdgeNodes } from "./app/edge-nodes.ts";
import { Drains } from "./app/drains.ts";
import { Enrolment } from "./app/enrolment.ts";
import { AuditChain } from "./app/audit-chain.ts";
import { AuditLog } from "./app/audit.ts";
import { Groups } from "./app/groups.ts";
import { IdentityStore } from "./app/identity-store.ts";
import { FleetOverview } from "./app/fleet-overview.ts";
import { LostHosts } from "./app/lost-hosts.ts";
import { ImageContent } from "./app/image-content.ts";
import { seedFlavors } from "./app/flavor-seeds.ts";
import { seedImages } from "./app/image-seeds.ts";
import { MigrationPlanner } from "./app/migration-planner.ts";
import { MetricsQuery } from "./app/metrics-query.ts";
import { PlacementReports } from "./app/placement-reports.ts";
import { OidcLogin, type OidcLoginOptions } from "./app/oidc-login.ts";
import { OidcProvider } from "./app/oidc-provider.ts";
import { Passwords } from "./app/passwords.ts";
import { Providers } from "./app/providers.ts";
import { RelocationAdvice } from "./app/relocation-advice.ts";
import { Relocations } from "./app/relocations.ts";
import { ResourceService } from "./app/resource-service.ts";
import { parseInput } from "./app/validation.ts";
import { Quotas } from "./app/quota.ts";
import { RateLimits } from "./app/rate-limits.ts";
import { rateTableOf } from "./app/rate-table.ts";
import { Sealer } from "./app/sealer.ts";
import { sealWhatIsOpen } from "./app/sealed-again.ts";
import { SecondFactor } from "./app/second-factor.ts";
import { SessionStore } from "./app/session-store.ts";
import { SigningKeys } from "./app/signing-keys.ts";
import { endsLogins, Tokens } from "./app/tokens.ts";
import { Users } from "./app/users.ts";
import { Authority } from "./agents/authority.ts";
import { createAgentPort } from "./agents/connect-client.ts";
import { Connections } from "./agents/connections.ts";
import { Gateway } from "./agents/gateway.ts";
import { OpenMoves } from "./app/open-moves.ts";
import { atonixSurface } from "./dialects/atonix/surface.ts";
import { novacronSurface } from "./dialects/novacron/surface.ts";
import { servicesSurface } from "./dialects/services/surface.ts";
import { Engine } from "./engine/engine.ts";
import { consoleRoutes } from "./http/console.ts";
import { adoptionRoutes } from "./http/adoptions.ts";
import { auditVerificationRoute } from "./http/audit.ts";
import { directoryRoutes } from "./http/directory.ts";
import { drainRoutes } from "./http/drains.ts";
import { extraRoutes } from "./http/extras.ts";
import { fleetRoutes } from "./http/fleet.ts";
import { lostHostRoutes } from "./http/lost-hosts.ts";
import { workloadRoutes } from "./http/workloads.ts";
import { groupRoutes } from "./http/groups.ts";
import { migrationRoutes } from "./http/migrations.ts";
import { nativeSurface } from "./http/native.ts";
import { oidcRoutes } from "./http/oidc.ts";
import { openApiDocument } from "./http/openapi.ts";
import type { Route } from "./http/route.ts";
import type { Locate } from "./http/relay.ts";
import { HttpServer } from "./http/server.ts";
import { systemSurface } from "./http/system.ts";
import { hostController } from "./resources/host/host.controller.ts";
import { createImageController } from "./resources/image/image.actions.ts";
import { instanceController } from "./resources/instance/instance.controller.ts";
import { workloadController } from "./resources/workload/workload.controller.ts";
import { kinds } from "./resources/kinds.ts";
import { createRegistry } from "./resources/registry.ts";
import { defaultPolicy } from "./scheduler/default-policy.ts";
import { controlPlaneSettings, readControlPlaneSettings, type ControlPlaneSettings } from "./settings.ts";
import { BlobStore } from "./store/blobs.ts";
import { Database } from "./store/database.ts";
import { KeyStore } from "./store/keys.ts";
import { migrate } from "./store/migrate.ts";

const version = "0.1.0";
const stopGraceMs = 5_000;
const hourMs = 3_600_000;
const dayMs = 24 * hourMs;

/** Serves until `stopped` resolves; everything that was opened is closed in the reverse order. */
async function serve(settings: ControlPlaneSettings, log: Logger, stopped: Promise<string>): Promise<void> {
  const now = Date.now;
  const { signal } = new AbortController();
  await using database = openDatabase(settings, log);
  await migrate(database, new URL("store/migrations/", import.meta.url), log);

  const store = new AccountStore(database);
  const sessions = new SessionStore(database);
  const identities = new IdentityStore(database);
  const sealer = await Sealer.open(settings.secretKeyFile, settings.secretKey);
  const sealed = await sealWhatIsOpen(database, sealer);
  if (sealed > 0) log.info("secrets.sealed", { count: sealed });
  const keys = new KeyStore(database, sealer);
  const signingKeys = await SigningKeys.open({ database, sealer });
  const tokens = new Tokens({ keys: signingKeys, identities });
  const audit = new AuditLog(database);
  const keepMs = settings.auditDays === 0 ? undefined : settings.auditDays * dayMs;
  const auditChain = new AuditChain({ database, keys: signingKeys, keepMs });
  const passwords = new Passwords();
  const secondFactor = new SecondFactor({ database, sealer });
  const accounts = new Accounts({ store, sessions, identities, passwords, secondFactor, tokens });
  if (settings.firstPassword !== "")
    await accounts.ensureFirst(settings.firstUsername, settings.firstPassword);
  const authority = await Authority.open({
    keys,
    hostLifeMs: settings.hostCertificateHours * hourMs,
    operatorLifeMs: settings.operatorCertificateHours * hourMs,
  });

  const egress = { ...defaultEgressPolicy, allowedRanges: settings.imageAllowedRanges };
  const blobs = new BlobStore(database);
  const maxBytes = settings.imageMaxBytes;
  const microDirectory = settings.microDirectory || undefined;
  const overrides = await readOverrides(settings.imageOverridesFile);
  await seedImages({ database, blobs, microDirectory, overrides, maxBytes, log, signal });

  await seedFlavors(database);

  const connections = new Connections();
  const replicaId = newId("replica");
  let gatewayPort = settings.gatewayPort;
  const agents = createAgentPort({ connections, authority });
  const images = createImageController({
    egress,
    maxBytes,
    store: (...given) => blobs.writeStream(...given),
  });
  const controllers = [instanceController, workloadController, hostController, images];
  const policy = defaultPolicy({
    cost: settings.weightCost,
    distance: settings.weightDistance,
    packing: settings.weightPacking,
    spread: settings.weightSpread,
  });
  await using engine = new Engine({
    database,
    registry: createRegistry(controllers),
    controllers,
    agents,
    policy,
    log,
    now,
    replicaId,
    replicaUrl: settings.replicaUrl || `http://${settings.listen}:${String(settings.port)}`,
    replicaGateway: () => settings.replicaGateway || `${settings.gatewayListen}:${String(gatewayPort)}`,
    concurrency: settings.concurrency,
    pollMs: settings.pollMs,
    sweepMs: settings.sweepMs,
    leaseMs: settings.leaseSeconds * 1000,
    fenceMs: settings.fenceSeconds * 1000,
    chores: {
      blob_unreferenced: () => blobs.removeUnreferenced(),
      token_key_rotated: () => signingKeys.rotate(),
      audit_chained: () => auditChain.chain(),
      audit_old: () => auditChain.retain(),
    },
  });
  const onChange = () => engine.hint();
  const resources = new ResourceService({ database, events: engine.events, sealer, onChange });
  const overcommit = {
    cpus: settings.overcommitCpus,
    memory: settings.overcommitMemory,
    disk: settings.overcommitDisk,
  };
  const enrolment = new Enrolment({
    database,
    resources,
    pin: authority.pin,
    gateway: () => `${settings.gatewayNames[0] ?? settings.gatewayListen}:${String(gatewayPort)}`,
    overcommit,
    log,
    now,
    onChange,
  });
  await engine.start();
  await using drains = new Drains({ database, resources, log, now });
  drains.start();
  const advice = new RelocationAdvice({ database, fleet: engine.fleet });
  const everyMs = settings.relocationMinutes * 60_000;
  await using relocations = new Relocations({ database, resources, advice, everyMs, log, now });
  relocations.start();

  await using gateway = await Gateway.listen({
    authority,
    registry: enrolment,
    reports: engine.reports,
    files: blobs,
    moves: new OpenMoves(database),
    connections,
    replicaId,
    locate: async (hostId) => (await engine.presence.locate(hostId))?.gateway ?? undefined,
    log,
    host: settings.gatewayListen,
    port: settings.gatewayPort,
    names: settings.gatewayNames,
    keepAliveMs: settings.gatewayKeepAliveMs,
  });

  gatewayPort = gateway.port;
  using _removed = engine.events.subscribe((events) => {
    for (const { type, resourceId } of events) if (type === "host.deleted") gateway.disconnect(resourceId);
  });

  using _ended = engine.events.subscribe((events) => {
    if (events.some(endsLogins)) tokens.forget();
  });

  const metrics = new MetricsQuery({ database });
  const planner = new MigrationPlanner({ database, fleet: engine.fleet });
  const users = new Users({ database, resources, store, sessions, passwords, secondFactor, tokens });
  const providers = new Providers({ fleet: engine.fleet, policy });
  const locate: Locate = async (hostId) => {
    if (agents.connected().includes(hostId)) return { here: true };
    return (await engine.presence.locate(hostId)) ?? { here: true };
  };
  const native = nativeSurface({
    kinds,
    resources,
    extras: [
      ...extraRoutes({
        version,
        resources,
        imageContent: new ImageContent({ database, blobs, maxBytes, onChange }),
        enrolmentTokens: { create: (ctx, input) => enrolment.createToken(ctx, input) },
        metrics,
        placements: new PlacementReports({ database, fleet: engine.fleet }),
        issueOperatorCertificate: async (ctx, request) => ({
          certificate: await authority.issueOperator(ctx.principal.name, request),
          authorities: authority.certificatePem,
        }),
      }),
      auditVerificationRoute(auditChain),
      ...directoryRoutes({
        users,
        secondFactor,
        signingKeys,
        quotas: new Quotas(database),
        apiKeys: new ApiKeys({ database, store, tokens, sealer }),
      }),
      ...groupRoutes(new Groups({ database, resources, tokens })),
      ...oidcOf(settings, { database, accounts, sealer }),
      ...migrationRoutes({ resources, planner }),
      ...fleetRoutes(new FleetOverview({ database, fleet: engine.fleet }), advice),
      ...drainRoutes(drains),
      ...lostHostRoutes(
        new LostHosts({ ...{ database, resources, onChange }, quietMs: settings.leaseSeconds * 1000 }),
      ),
      ...adoptionRoutes({ resources, adoption: new Adoption({ resources, database }) }),
      ...consoleRoutes({ resources, agents, locate }),
      ...workloadRoutes({ resources, agents, locate }),
    ],
  });
  const novacron = novacronSurface({
    ...{ resources, accounts, users, audit, metrics, planner, providers },
    edge: new EdgeNodes(database),
  });
  const services = servicesSurface({ resources, metrics, accounts, authenticator: tokens });
  const surfaces = [native, novacron, atonixSurface({ resources }), services];
  const documents = Object.fromEntries(
    surfaces.map((surface) => [surface.name, openApiDocument(surface, version)]),
  );
  const checks = [{ name: "database", check: async () => void (await database.query("select 1")) }];
  const http = new HttpServer({
    surfaces,
    fallback: systemSurface({ checks, documents, signingKeys }),
    authenticator: tokens,
    audit,
    rates: new RateLimits({ database, table: rateTableOf(settings), log }),
    log,
  });
  const { port } = await http.listen(settings.port, settings.listen);
  const url = `http://${settings.listen}:${String(port)}`;
  process.stdout.write(`${JSON.stringify({ event: "ready", url, gateway_port: gateway.port })}\n`);

  log.info("stopping", { why: await stopped });
  await http.stop(stopGraceMs);
}

/** The login by way of the operator's identity provider, if there is one. */
function oidcOf(settings: ControlPlaneSettings, deps: Omit<OidcLoginOptions, "provider">): Route[] {
  const { oidcIssuer: issuer, oidcClientId: clientId, oidcClientSecret: clientSecret } = settings;
  if (issuer === "") return [];
  const provider = new OidcProvider({ issuer, clientId, clientSecret });
  return oidcRoutes(new OidcLogin({ ...deps, provider }));
}

/** The operator's names for images: name -> another image's name, a file or a URL. */
async function readOverrides(file: string): Promise<Record<string, string> | undefined> {
  if (file === "") return undefined;
  return parseInput(z.record(z.string(), z.string()), JSON.parse(await readFile(file, "utf8")), file);
}

function openDatabase({ databaseUrl, databaseConnections }: ControlPlaneSettings, log: Logger): Database {
  if (databaseUrl === "") {
    throw new Fault("invalid", "DATABASE_URL is not set", { reason: "SETTINGS_INVALID" });
  }
  return new Database({ url: databaseUrl, maxConnections: databaseConnections, log });
}

/** Resolves with the first signal's name; a second signal ends the process at once. */
function stopSignal(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.once(signal, () => {
        process.once(signal, () => process.exit(1));
        resolve(signal);
      });
    }
  });
}

async function main(): Promise<void> {
  try {
    const settings = readControlPlaneSettings(process.env);
    if (process.argv.includes("--print-settings")) {
      process.stdout.write(`${printSettings(controlPlaneSettings, settings)}\n`);
      return;
    }
    const log = createLogger({
      level: settings.logLevel,
      write: batchLines(process.stderr),
    });
    await serve(settings, log, stopSignal());
    process.exitCode = 0;
  } catch (error) {
    const fault = toFault(error);
    process.stderr.write(`control plane: ${fault.message}\n`);
    if (fault.code === "internal") console.error(fault.cause);
    process.exitCode = 1;
  }
}

await main();
