/** How hosts join: a token that works once, and the host resource it leaves behind. */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import type { Ctx } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import { newId } from "#kernel/id.ts";
import type { Logger } from "#kernel/log.ts";
import { formatEnrolmentToken } from "#kernel/pin.ts";
import type { HostLabels } from "#gen/skerry/agent/v1/host_pb.js";
import type { HostRegistry } from "../agents/control-service.ts";
import { changeResource, insertResource, lockResource } from "../engine/rows.ts";
import type { Resource } from "../resources/definition.ts";
import {
  enrolmentToken,
  enrolmentTokenSpec,
  type EnrolmentToken,
  type EnrolmentTokenStatus,
} from "../resources/enrolment-token/enrolment-token.resource.ts";
import { host, hostSpec, type HostSpec } from "../resources/host/host.resource.ts";
import { toHostStatus } from "../engine/host-facts.ts";
import type { Database, Tx } from "../store/database.ts";
import type { CreateInput } from "./resource-api.ts";
import { rootProject } from "./authorisation.ts";
import type { ResourceService } from "./resource-service.ts";
import { checkName, parseInput } from "./validation.ts";

export interface EnrolmentOptions {
  readonly database: Database;
  readonly resources: ResourceService;
  /** Pin of the cloud's authority, see kernel/pin. */
  readonly pin: string;
  /** host:port at which agents reach the cloud. */
  readonly gateway: () => string;
  readonly overcommit: HostSpec["overcommit"];
  readonly log: Logger;
  readonly now: () => number;
  readonly onChange: () => void;
}

type HostToEnrol = Parameters<HostRegistry["enrol"]>[0];

export class Enrolment implements HostRegistry {
  readonly #options: EnrolmentOptions;

  constructor(options: EnrolmentOptions) {
    this.#options = options;
  }

  /** Makes a token; its text is in this answer only, the database keeps a digest. */
  async createToken(
    ctx: Ctx,
    input: CreateInput,
  ): Promise<{ resource: Resource; token: string; gateway: string }> {
    const { resources, now, pin, gateway } = this.#options;
    const { expires_in_seconds } = parseInput(enrolmentTokenSpec, input.spec ?? {}, "spec");
    const secret = randomBytes(24).toString("base64url");
    const observed: EnrolmentTokenStatus = {
      secret_hash: digest(secret),
      expires_at: new Date(now() + expires_in_seconds * 1000).toISOString(),
      used_at: null,
      used_by: null,
      used_key: null,
    };
    let made: Resource | undefined;
    const respond = (resource: Resource) => {
      made = resource;
      return { status: 201, headers: {}, body: null };
    };
    await resources.create(ctx, enrolmentToken, input, { respond }, { observed });
    if (!made) throw new Fault("internal", "the token was not stored");
    const token = formatEnrolmentToken({ id: made.id, secret, pin });
    return { resource: made, token, gateway: gateway() };
  }

  async enrol(request: HostToEnrol): Promise<{ hostId: string }> {
    const { database, onChange } = this.#options;
    const name = checkName(request.name);
    const enrolled = await database.transaction(async (tx) => {
      const token = await this.#useToken(tx, request.token, name);
      const status = token.observed;
      if (status?.used_by) {
        if (status.used_key === request.keyPin) return { hostId: status.used_by };
        throw refused("this token has been used", "TOKEN_USED");
      }
      const hostId = await this.#insertHost(tx, name, request);
      const used = {
        used_at: new Date(this.#options.now()).toISOString(),
        used_by: hostId,
        used_key: request.keyPin,
      };
      await changeResource(
        tx,
        enrolmentToken,
        token,
        { observed: { ...status, ...used } },
        this.#options.log,
      );
      return { hostId };
    });
    onChange();
    return enrolled;
  }

  async renewable(hostId: string): Promise<boolean> {
    const rows = await this.#options.database.query(
      "select 1 from resource where id = $1 and kind = 'host' and deleting_at is null",
      [hostId],
    );
    return rows.length > 0;
  }

  async #useToken(tx: Tx, text: string, name: string): Promise<EnrolmentToken> {
    const [id = "", secret = ""] = text.split(".");
    const token = (await lockResource(tx, id)) as EnrolmentToken | undefined;
    const status = token?.kind === enrolmentToken.kind ? token.observed : undefined;
    const known = Buffer.from(status?.secret_hash ?? digest(""));
    if (!token || !status || !timingSafeEqual(known, Buffer.from(digest(secret)))) {
      throw refused("this token is not known", "TOKEN_UNKNOWN");
    }
    if (Date.parse(status.expires_at) < this.#options.now())
      throw refused("this token has expired", "TOKEN_EXPIRED");
    const meant = token.desired.host_name;
    if (meant !== null && meant !== name)
      throw refused("this token is for another host", "TOKEN_FOR_OTHER_HOST");
    return token;
  }

  async #insertHost(tx: Tx, name: string, { labels, facts }: HostToEnrol): Promise<string> {
    const id = newId(host.idPrefixes[0], this.#options.now());
    const desired = parseInput(hostSpec, toHostSpec(labels, this.#options.overcommit), "labels");
    const observed = facts && { ...toHostStatus(facts), connected: false, unknown_machines: [] };
    await insertResource(tx, host, {
      id,
      project: rootProject,
      name,
      labels: labels?.labels ?? {},
      desired,
      observed,
      refs: {},
    });
    return id;
  }
}

function toHostSpec(labels: HostLabels | undefined, overcommit: HostSpec["overcommit"]): HostSpec {
  const location = labels?.location;
  const prices = labels?.prices;
  return {
    provider: labels?.provider || "default",
    region: labels?.region || "default",
    zone: labels?.zone ?? "",
    location: location
      ? {
          latitude: location.latitude,
          longitude: location.longitude,
          city: location.city,
          country: location.country,
        }
      : null,
    prices: prices
      ? { cpu_per_hour: prices.cpuPerHour, memory_per_gb: prices.memoryPerGb, currency: prices.currency }
      : null,
    overcommit,
    cordoned: false,
  };
}

function digest(secret: string): string {
  return createHash("sha256").update(secret).digest("hex");
}

function refused(message: string, reason: string): Fault {
  return new Fault("unauthenticated", message, { reason });
}
