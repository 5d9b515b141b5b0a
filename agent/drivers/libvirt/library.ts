/**
 * libvirt through its binding: the reading side, which is asked often and must not cost a process each time. The binding
 * can neither be interrupted nor given a limit, and each call holds one of Node's few threads until the daemon answers; so
 * there is never more than one under way, and who waits too long gets a fault while it goes on. It has no migration,
 * events, statistics or error codes either: what changes something goes through virsh.
 */
import { Fault, isFault, toFault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";
import { type Element, parse } from "./xml.ts";

export interface FoundDomain {
  readonly uuid: string;
  readonly name: string;
  readonly state: DomainState;
  /** Of the running domain if it runs, else of the one to be started. */
  readonly description: Element;
}

export type DomainState = "running" | "paused" | "stopping" | "off";

/** The reading side of libvirt, however it is reached. */
export interface Reader {
  /** The domain with this uuid; undefined when there is none. */
  find(uuid: string, signal: AbortSignal): Promise<FoundDomain | undefined>;
  /** Every domain of the host, whoever made it. */
  list(signal: AbortSignal): Promise<readonly FoundDomain[]>;
  close(): Promise<void>;
}

/** The part of the binding's types that is used; it may not be there to compile against. */
export interface Binding {
  readonly Hypervisor: new (options: { readonly uri: string }) => Connection;
}

interface Connection {
  connectOpen(): Promise<void>;
  connectClose(): Promise<void>;
  connectListAllDomains(): Promise<readonly BoundDomain[]>;
  domainLookupByUUIDString(uuid: string): Promise<BoundDomain>;
}

interface BoundDomain {
  getInfo(): Promise<{ readonly state: number }>;
  getXMLDesc(): Promise<string>;
  getName(): Promise<string>;
  getUUIDString(): Promise<string>;
}

const packageName: string = "@unraid/libvirt";
const callLimitMs = 15_000;
/** libvirt's own numbers; the rest are shades of off. */
const states: Readonly<Record<number, DomainState>> = {
  1: "running",
  2: "running",
  3: "paused",
  4: "stopping",
  7: "paused",
};

/** Loads the binding, an optional package. Throws LIBVIRT_LIBRARY_MISSING where it could not be built. */
export async function loadBinding(
  load: () => Promise<unknown> = () => import(packageName),
): Promise<Binding> {
  try {
    return (await load()) as Binding;
  } catch (cause) {
    throw new Fault("unavailable", "libvirt's binding is not installed on the host", {
      reason: "LIBVIRT_LIBRARY_MISSING",
      detail: { package: packageName, needs: "libvirt-dev and a C++ compiler, then npm install" },
      retryable: false,
      cause,
    });
  }
}

export class Library implements Reader {
  readonly #open: () => Connection;
  readonly #limitMs: number;
  #connection: Connection | undefined;
  #last: Promise<unknown> = Promise.resolve();

  constructor({ binding, uri, limitMs = callLimitMs }: { binding: Binding; uri: string; limitMs?: number }) {
    this.#open = () => new binding.Hypervisor({ uri });
    this.#limitMs = limitMs;
  }

  /** The domain with this uuid; undefined when there is none. */
  async find(uuid: string, signal: AbortSignal): Promise<FoundDomain | undefined> {
    return await this.#inTurn(async (connection) => {
      try {
        return await describe(await connection.domainLookupByUUIDString(uuid));
      } catch (error) {
        if (isAbsent(error)) return undefined;
        throw error;
      }
    }, signal);
  }

  /** Every domain of the host, whoever made it. */
  async list(signal: AbortSignal): Promise<readonly FoundDomain[]> {
    return await this.#inTurn(async (connection) => {
      const found: FoundDomain[] = [];
      for (const domain of await connection.connectListAllDomains()) {
        try {
          found.push(await describe(domain));
        } catch (error) {
          // It was removed while the others were asked.
          if (!isAbsent(error)) throw error;
        }
      }
      return found;
    }, signal);
  }

  async close(): Promise<void> {
    await this.#last;
    await this.#connection?.connectClose();
    this.#connection = undefined;
  }

  async #inTurn<T>(work: (connection: Connection) => Promise<T>, signal: AbortSignal): Promise<T> {
    using limit = deadline(this.#limitMs, "libvirt's answer", signal);
    limit.throwIfAborted();
    const answer = this.#last.then(() => this.#ask(work, limit));
    this.#last = answer.catch(() => undefined);
    return await Promise.race([answer, rejection(limit)]);
  }

  /** A connection that broke since its last use is opened again, once. */
  async #ask<T>(work: (connection: Connection) => Promise<T>, limit: AbortSignal): Promise<T> {
    limit.throwIfAborted();
    const kept = this.#connection;
    if (kept) {
      try {
        return await work(kept);
      } catch {
        // The binding cannot say whether the connection or the call failed: a fresh one tells.
        this.#connection = undefined;
        await kept.connectClose().catch(() => undefined); // it may be broken already
      }
    }
    const connection = this.#open();
    try {
      await connection.connectOpen();
    } catch (cause) {
      throw new Fault("unavailable", "libvirt does not answer on the host", {
        reason: "LIBVIRT_UNREACHABLE",
        cause,
      });
    }
    this.#connection = connection;
    try {
      return await work(connection);
    } catch (cause) {
      throw isFault(cause)
        ? cause
        : new Fault("unavailable", "libvirt refuses to tell", { reason: "LIBVIRT_FAILED", cause });
    }
  }
}

async function describe(domain: BoundDomain): Promise<FoundDomain> {
  const uuid = await domain.getUUIDString();
  const name = await domain.getName();
  const { state } = await domain.getInfo();
  return { uuid, name, state: states[state] ?? "off", description: parse(await domain.getXMLDesc()) };
}

/** The binding gives no error codes, only libvirt's text, which it leaves in English. */
function isAbsent(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith("Domain not found");
}

function rejection(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener("abort", () => reject(toFault(signal.reason)), { once: true });
  });
}
