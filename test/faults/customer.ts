/** A client that changes one instance at a time, at random, and asks again until it has an answer. */
import { sleep } from "#kernel/retry.ts";
import type { Answer, TestCloud } from "#test/support/cloud.ts";
import { smallSpec, type Wanted } from "./faults-world.ts";

const answerLimitMs = 60_000;
const pauseMs = 200;
const mostCpus = 6;
/** Of so many answers it is taken that they got lost: a kill hits the moment before an answer too seldom. */
const lostShare = 0.3;

interface Sent {
  readonly method: string;
  readonly path: string;
  readonly body?: object;
}

export class Customer {
  /** The instance that it has, as it was last promised. */
  wanted: Wanted | undefined;
  readonly deleted: string[] = [];
  /** Requests that were answered, and requests that had to be sent again. */
  answered = 0;
  repeated = 0;
  /** Every refusal on the way. */
  readonly refusals: Answer<unknown>[] = [];
  readonly #cloud: Pick<TestCloud, "request">;
  readonly #name: string;
  readonly #random: () => number;
  #count = 0;

  constructor(cloud: Pick<TestCloud, "request">, name: string, random: () => number) {
    this.#cloud = cloud;
    this.#name = name;
    this.#random = random;
  }

  /** Goes on until the signal aborts; what was begun is brought to an answer. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) await this.#change();
  }

  async #change(): Promise<void> {
    const { wanted } = this;
    if (!wanted) return this.#create();
    const path = `/skerry/v1/instances/${wanted.id}`;
    const chance = this.#random();
    if (chance < 0.25) {
      // Lets it settle, so that not every change overtakes the one before.
      await this.#ask({ method: "GET", path: `${path}?wait=2` });
    } else if (chance < 0.45) {
      await this.#ask({ method: "POST", path: `${path}/stop`, body: {} });
      this.wanted = { ...wanted, power: "off" };
    } else if (chance < 0.65) {
      await this.#ask({ method: "POST", path: `${path}/start`, body: {} });
      this.wanted = { ...wanted, power: "on" };
    } else if (chance < 0.85) {
      const cpus = Math.min(mostCpus, wanted.cpus + 1);
      await this.#ask({ method: "PATCH", path, body: { spec: { cpus } } });
      this.wanted = { ...wanted, cpus };
    } else {
      await this.#ask({ method: "DELETE", path });
      this.deleted.push(wanted.id);
      this.wanted = undefined;
    }
  }

  async #create(): Promise<void> {
    const name = `${this.#name}-${String(this.#count++)}`;
    const body = { name, spec: smallSpec };
    const { id } = await this.#ask<{ id: string }>({ method: "POST", path: "/skerry/v1/instances", body });
    this.wanted = { id, name, cpus: smallSpec.cpus, power: "on" };
  }

  /** Sends the same request, with the same key, until somebody has answered it. */
  async #ask<Body>({ method, path, body }: Sent): Promise<Body> {
    const key = `${this.#name}.${String(this.answered)}`;
    const limit = AbortSignal.timeout(answerLimitMs);
    for (let attempt = 0; ; attempt++) {
      const answer = await this.#cloud
        .request<Body>(method, path, body, method === "POST" ? { "idempotency-key": key } : {})
        .catch(() => undefined); // cut off: whether it was heard is what nobody knows
      if (attempt === 0 && method === "POST" && this.#random() < lostShare) {
        this.repeated++;
        continue;
      }
      // A delete that was cut off may have been carried out.
      const erased = method === "DELETE" && attempt > 0 && answer?.status === 404;
      if (answer && (answer.status < 300 || erased)) {
        this.answered++;
        return answer.body;
      }
      if (answer) this.refusals.push(answer);
      if (answer && answer.status !== 503) {
        throw new Error(
          `${method} ${path} was answered ${String(answer.status)}: ${JSON.stringify(answer.body)}`,
        );
      }
      this.repeated++;
      await sleep(pauseMs, limit);
    }
  }
}
