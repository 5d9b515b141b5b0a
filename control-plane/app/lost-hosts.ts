/** An operator's word that a host is dead, where the cloud alone cannot know it. */
import type { Ctx } from "#kernel/ctx.ts";
import { declareLost } from "../engine/loss-record.ts";
import { host, type Host } from "../resources/host/host.resource.ts";
import type { Database } from "../store/database.ts";
import { authorise } from "./authorisation.ts";
import type { ResourceService } from "./resource-service.ts";

export interface LostHostsOptions {
  readonly database: Database;
  readonly resources: ResourceService;
  /** How long a host must not have been heard of: its lease. */
  readonly quietMs: number;
  /** Called after it was committed. */
  readonly onChange: () => void;
}

export class LostHosts {
  readonly #options: LostHostsOptions;

  constructor(options: LostHostsOptions) {
    this.#options = options;
  }

  /** Has what may run elsewhere started there at once. Throws `conflict` HOST_HEARD for a host that is not silent. */
  async declare(ctx: Ctx, hostId: string): Promise<Host> {
    authorise(ctx.principal, host.access.update, "declaring hosts lost", "change");
    const { database, resources, quietMs, onChange } = this.#options;
    const { id } = await resources.get(ctx, host, hostId);
    const { log } = ctx;
    await database.transaction((tx) => declareLost(tx, host, id, { quietMs, now: ctx.now(), log }));
    log.warn("host.declared_lost", { hostId: id, by: ctx.principal.name });
    onChange();
    return (await resources.get(ctx, host, id)) as Host;
  }
}
