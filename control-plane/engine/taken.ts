/**
 * Room that this replica is taking: what it has asked for or been promised since the view of a host was read. It
 * is added to the view, so that choices made at the same time do not all go to one host until it refuses them.
 */
import type { Amounts, HostSnapshot } from "../scheduler/snapshot.ts";

interface Take {
  readonly amounts: Amounts;
  /** When the promise was there; undefined while it is being asked for. */
  promisedAt: number | undefined;
}

export class Taken {
  readonly #byHost = new Map<string, Set<Take>>();

  begin(hostId: string, amounts: Amounts): Take {
    const take: Take = { amounts, promisedAt: undefined };
    const takes = this.#byHost.get(hostId);
    if (takes) takes.add(take);
    else this.#byHost.set(hostId, new Set([take]));
    return take;
  }

  /** It was refused, or nobody knows. */
  drop(hostId: string, take: Take): void {
    const takes = this.#byHost.get(hostId);
    takes?.delete(take);
    if (takes?.size === 0) this.#byHost.delete(hostId);
  }

  /**
   * A host that was just read, with what the reading may have missed.
   * @param readAt when the reading began: what was promised before is in it
   */
  addTo(host: HostSnapshot, readAt: number): { readonly host: HostSnapshot; readonly missed: boolean } {
    const takes = this.#byHost.get(host.id);
    if (!takes) return { host, missed: false };
    let known = host;
    for (const take of takes) {
      if (take.promisedAt !== undefined && take.promisedAt < readAt) this.drop(host.id, take);
      else known = withTaken(known, take.amounts);
    }
    return { host: known, missed: known !== host };
  }
}

/** The host with more, or when `sign` is -1 with less, of it in use. */
export function withTaken(host: HostSnapshot, amounts: Amounts, sign: 1 | -1 = 1): HostSnapshot {
  const { used } = host;
  return {
    ...host,
    used: {
      ...used,
      cpus: used.cpus + sign * amounts.cpus,
      memoryBytes: used.memoryBytes + sign * amounts.memoryBytes,
      diskBytes: used.diskBytes + sign * amounts.diskBytes,
    },
  };
}
