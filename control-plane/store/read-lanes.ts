/**
 * A few connections that many short reads share: each is sent at once, behind those that are still being
 * answered, and what is asked within one turn of the event loop goes out in one write. A request of its own
 * on a connection of its own would cost a wake-up of another server process each time. Only for reads that
 * wait for no lock: whatever is slow here delays those behind it.
 */
import type { Writable } from "node:stream";
import pg from "pg";
import { fly, type Landing, type Statement } from "./flight.ts";

interface Lane {
  readonly client: Promise<pg.Client>;
  waiting: number;
}

export class ReadLanes implements AsyncDisposable {
  readonly #config: pg.ClientConfig;
  readonly #lanes: (Lane | undefined)[];

  constructor(config: pg.ClientConfig, lanes: number) {
    this.#config = config;
    this.#lanes = Array.from({ length: lanes }, () => undefined);
  }

  /** Sends the read on the connection with the fewest before it; a connection that was lost is made anew. */
  async read(statement: Statement): Promise<Landing> {
    const lane = this.#choose();
    lane.waiting++;
    try {
      const client = await lane.client;
      holdTogether(client);
      return await fly(client, [statement]);
    } finally {
      lane.waiting--;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const open = this.#lanes.flatMap((lane) => lane ?? []);
    this.#lanes.fill(undefined);
    // One that could not connect has nothing to end; those who asked were told.
    await Promise.all(
      open.map(({ client }) => client.then((connected) => connected.end()).catch(() => undefined)),
    );
  }

  #choose(): Lane {
    let best = 0;
    const waiting = (index: number) => this.#lanes[index]?.waiting ?? 0;
    for (let index = 1; index < this.#lanes.length; index++) if (waiting(index) < waiting(best)) best = index;
    return (this.#lanes[best] ??= this.#open(best));
  }

  #open(index: number): Lane {
    const client = new pg.Client(this.#config);
    const lane: Lane = { client: client.connect().then(() => client), waiting: 0 };
    const forget = () => {
      if (this.#lanes[index] === lane) this.#lanes[index] = undefined;
    };
    client.on("error", forget); // the reads under way are refused with it
    client.on("end", forget);
    lane.client.catch(forget);
    return lane;
  }
}

/** What is said within one turn goes out in one write, and the server is woken once. */
function holdTogether(client: pg.ClientBase): void {
  const { stream } = (client as unknown as { readonly connection: { readonly stream: Writable } }).connection;
  stream.cork();
  process.nextTick(() => stream.uncork());
}
