import { logLevels } from "#kernel/log.ts";
import { integer, list, number, oneOf, readSettings, text, type SettingsOf } from "#kernel/settings.ts";
import { defaultFenceMs, defaultLeaseMs } from "./engine/loss-judgement.ts";
import { defaultWeights } from "./scheduler/default-policy.ts";

/** The rates of an API's plan; RULINGS of the contract say which are whose. */
const rate = (api: string, plan: string, defaults: readonly string[]) =>
  list({
    env: `SKERRY_RATE_${api}_${plan}`.toUpperCase(),
    default: defaults,
    help: `Requests that the plan ${plan} allows in the API ${api}, such as 1000/h,100/min; none: no limit.`,
  });

const weight = (scorer: keyof typeof defaultWeights, of: string) =>
  number({
    env: `SKERRY_WEIGHT_${scorer.toUpperCase()}`,
    default: defaultWeights[scorer],
    min: 0,
    max: 1000,
    help: `Scheduler: weight of ${of}`,
  });

const port = { min: 0, max: 65535 };

/** What an operator may set of the control plane. */
export const controlPlaneSettings = {
  databaseUrl: text({
    env: "DATABASE_URL",
    default: "",
    secret: true,
    help: "PostgreSQL 15 or newer.",
  }),
  databaseConnections: integer({
    env: "SKERRY_DATABASE_CONNECTIONS",
    default: 16,
    min: 2,
    max: 500,
    help: "Largest number of connections to the database.",
  }),
  listen: text({ env: "SKERRY_LISTEN", default: "127.0.0.1", help: "Address of the public API." }),
  port: integer({ env: "PORT", default: 8000, ...port, help: "Port of the public API; 0 takes a free one." }),
  replicaUrl: text({
    env: "SKERRY_REPLICA_URL",
    default: "",
    help: "Where other replicas reach this one; worked out from the address and port when empty.",
  }),
  gatewayListen: text({
    env: "SKERRY_GATEWAY_LISTEN",
    default: "127.0.0.1",
    help: "Address on which agents dial in.",
  }),
  gatewayPort: integer({
    env: "SKERRY_GATEWAY_PORT",
    default: 8001,
    ...port,
    help: "Port on which agents dial in; 0 takes a free one.",
  }),
  replicaGateway: text({
    env: "SKERRY_REPLICA_GATEWAY",
    default: "",
    help: "Where other replicas reach this one's gateway, as host:port; worked out from its address and port when empty.",
  }),
  gatewayNames: list({
    env: "SKERRY_GATEWAY_NAMES",
    default: ["localhost", "127.0.0.1"],
    help: "DNS names and addresses in the gateway's certificate.",
  }),
  gatewayKeepAliveMs: integer({
    env: "SKERRY_GATEWAY_KEEPALIVE_MS",
    default: 15_000,
    min: 1_000,
    max: 300_000,
    help: "An agent's connection on which nothing came for this long is dead.",
  }),
  hostCertificateHours: number({
    env: "SKERRY_HOST_CERTIFICATE_HOURS",
    default: 720,
    min: 0.001,
    max: 87_600,
    help: "Life of a host's certificate; it is renewed at a third of it.",
  }),
  operatorCertificateHours: number({
    env: "SKERRY_OPERATOR_CERTIFICATE_HOURS",
    default: 8,
    min: 0.001,
    max: 720,
    help: "Life of an operator's client certificate.",
  }),
  home: text({
    env: "SKERRY_HOME",
    default: ".skerry",
    help: "Folder of the local cloud; unused elsewhere.",
  }),
  microDirectory: text({
    env: "SKERRY_MICRO_DIR",
    default: "",
    help: "Folder of the built-in image micro; without it that image is not offered.",
  }),
  imageOverridesFile: text({
    env: "SKERRY_IMAGE_OVERRIDES_FILE",
    default: "",
    help: "JSON file: image name -> another image's name, a file or a URL.",
  }),
  imageMaxBytes: integer({
    env: "SKERRY_IMAGE_MAX_BYTES",
    default: 32 * 1024 ** 3,
    min: 1024 ** 2,
    max: 2 ** 50,
    help: "Largest image that may be uploaded or imported.",
  }),
  imageAllowedRanges: list({
    env: "SKERRY_IMAGE_ALLOWED_RANGES",
    default: [],
    help: "Address ranges that are not public and that image URLs may point at all the same, such as 10.0.0.0/8.",
  }),
  firstUsername: text({
    env: "SKERRY_FIRST_USERNAME",
    default: "admin",
    help: "First user of a fresh installation.",
  }),
  firstPassword: text({
    env: "SKERRY_FIRST_PASSWORD",
    default: "",
    secret: true,
    help: "First user's password; without it a fresh installation has no user.",
  }),
  concurrency: integer({
    env: "SKERRY_ENGINE_CONCURRENCY",
    default: 24,
    min: 1,
    max: 1000,
    help: "Passes that the engine runs at a time.",
  }),
  pollMs: integer({
    env: "SKERRY_ENGINE_POLL_MS",
    default: 1_000,
    min: 10,
    max: 60_000,
    help: "How long the engine rests when nothing wakes it.",
  }),
  sweepMs: integer({
    env: "SKERRY_SWEEP_MS",
    default: 30_000,
    min: 100,
    max: 3_600_000,
    help: "How often leftovers are looked for.",
  }),
  leaseSeconds: number({
    env: "SKERRY_LEASE_SECONDS",
    default: defaultLeaseMs / 1000,
    min: 0.5,
    max: 3_600,
    help: "How long a host's machines that may be started elsewhere run on when it cannot be heard; hosts with such machines report every third of it, others half as often.",
  }),
  fenceSeconds: number({
    env: "SKERRY_FENCE_SECONDS",
    default: defaultFenceMs / 1000,
    min: 0.5,
    max: 600,
    help: "How long an agent may take to stop them, before they are started elsewhere.",
  }),
  weightCost: weight("cost", "cost."),
  weightDistance: weight("distance", "distance."),
  weightPacking: weight("packing", "filling hosts up one by one."),
  weightSpread: weight("spread", "zones that have few of a group that is to be spread."),
  relocationMinutes: number({
    env: "SKERRY_RELOCATION_MINUTES",
    default: 5,
    min: 0.001,
    max: 1_440,
    help: "How often it is looked whether instances with automatic relocation would be better off elsewhere.",
  }),
  overcommitCpus: number({
    env: "SKERRY_OVERCOMMIT_CPUS",
    default: 8,
    min: 1,
    max: 100,
    help: "How many times its CPUs a host that joins may promise.",
  }),
  overcommitMemory: number({
    env: "SKERRY_OVERCOMMIT_MEMORY",
    default: 1.5,
    min: 1,
    max: 10,
    help: "How many times its memory a host that joins may promise.",
  }),
  overcommitDisk: number({
    env: "SKERRY_OVERCOMMIT_DISK",
    default: 4,
    min: 1,
    max: 100,
    help: "How many times its disk a host that joins may promise; disks are thin.",
  }),
  oidcIssuer: text({
    env: "SKERRY_OIDC_ISSUER",
    default: "",
    help: "Identity provider (OpenID Connect) that people may log in with, by its issuer URL; none when empty.",
  }),
  oidcClientId: text({
    env: "SKERRY_OIDC_CLIENT_ID",
    default: "skerry",
    help: "What the identity provider calls this cloud.",
  }),
  oidcClientSecret: text({
    env: "SKERRY_OIDC_CLIENT_SECRET",
    default: "",
    secret: true,
    help: "The secret that goes with it; empty for a public client.",
  }),
  auditDays: integer({
    env: "SKERRY_AUDIT_DAYS",
    default: 400,
    min: 0,
    max: 36_500,
    help: "How long the audit log is kept; a signed record stays in the place of what was taken out. 0: for ever.",
  }),
  secretKeyFile: text({
    env: "SKERRY_SECRET_KEY_FILE",
    default: "",
    help: "File with the key that seals secrets in the database, made when missing; without it they are not sealed.",
  }),
  secretKey: text({
    env: "SKERRY_SECRET_KEY_BASE64",
    default: "",
    secret: true,
    help: "The key itself, 32 bytes in base64, instead of the file.",
  }),
  rateAtonixStandard: rate("atonix", "standard", ["100/s", "1000000/d"]),
  rateAtonixPremium: rate("atonix", "premium", ["1000/s", "1000000/d"]),
  rateAtonixEnterprise: rate("atonix", "enterprise", ["1000/s"]),
  rateServicesStandard: rate("services", "standard", ["1000/h"]),
  rateServicesPremium: rate("services", "premium", ["10000/h"]),
  rateServicesEnterprise: rate("services", "enterprise", ["1000000/h"]),
  rateServicesAnonymous: rate("services", "anonymous", ["100/h"]),
  rateNovacronStandard: rate("novacron", "standard", ["1000/h", "100/min"]),
  rateNovacronPremium: rate("novacron", "premium", ["10000/h", "1000/min"]),
  rateNovacronEnterprise: rate("novacron", "enterprise", ["1000000/h", "100000/min"]),
  logLevel: oneOf({
    env: "SKERRY_LOG_LEVEL",
    default: "info",
    values: logLevels,
    help: "Least level that is logged.",
  }),
};

export type ControlPlaneSettings = SettingsOf<typeof controlPlaneSettings>;

/** Reads the settings; throws one fault that lists every mistake. */
export function readControlPlaneSettings(env: NodeJS.ProcessEnv): ControlPlaneSettings {
  return readSettings(controlPlaneSettings, env, { prefix: "SKERRY_" });
}
