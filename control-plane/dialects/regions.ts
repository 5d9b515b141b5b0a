import type { Ctx } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import type { ResourceApi } from "../app/resource-api.ts";
import { host, type Host } from "../resources/host/host.resource.ts";

const pageSize = 1000;

/**
 * The providers and regions that there are, as the hosts say. What was known once is believed; before
 * anything is refused the hosts are asked again, so that a site that joined just now is found.
 */
export class KnownRegions {
  readonly #resources: Pick<ResourceApi, "list">;
  #known: ReadonlySet<string> = new Set();

  constructor(resources: Pick<ResourceApi, "list">) {
    this.#resources = resources;
  }

  /** Throws `invalid`, with the known ones, when no host has this provider and region. */
  async check(ctx: Ctx, provider: string | null, region: string | null): Promise<void> {
    if (provider === null && region === null) return;
    const matches = (pair: string) => {
      const [p, r] = pair.split("/");
      return (provider === null || p === provider) && (region === null || r === region);
    };
    if ([...this.#known].some(matches)) return;
    this.#known = await this.#load(ctx);
    if ([...this.#known].some(matches)) return;
    const known = [...this.#known].sort();
    const asked = [provider, region].filter((part) => part !== null).join("/");
    throw new Fault("invalid", `no host is in ${asked}; known: ${known.join(", ") || "none"}`, {
      reason: "UNKNOWN_REGION",
      detail: { provider, region, known },
    });
  }

  async #load(ctx: Ctx): Promise<ReadonlySet<string>> {
    const found = new Set<string>();
    let cursor: string | undefined;
    do {
      const page = await this.#resources.list(ctx, host, { limit: pageSize, ...(cursor && { cursor }) });
      for (const { desired } of page.items as readonly Host[])
        found.add(`${desired.provider}/${desired.region}`);
      cursor = page.nextCursor;
    } while (cursor !== undefined);
    return found;
  }
}
