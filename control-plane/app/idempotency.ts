import { Fault } from "#kernel/fault.ts";
import type { Tx } from "../store/database.ts";
import type { MutationOptions, Reply } from "./resource-api.ts";
import type { Sealer } from "./sealer.ts";

interface StoredReply {
  readonly request_hash: string;
  readonly status: number;
  readonly headers: Reply["headers"];
  readonly body: Reply["body"];
  readonly sealed: string | null;
}

/** What a change answers with. */
export interface Answered {
  readonly reply: Reply;
  /** The same without what is shown once, when there is such: the reply itself is then kept sealed only. */
  readonly plain?: Reply | undefined;
}

export interface OnceOptions {
  readonly account: string;
  readonly idempotency: MutationOptions["idempotency"];
  readonly sealer: Sealer | undefined;
}

/**
 * Runs a change at most once per account and key: the key, the change and the reply are one
 * transaction, and a second request with the key waits for the first to end. The same key with another
 * request is a `conflict`. Where nothing can be sealed, a repeated answer lacks what was shown once.
 */
export async function oncePerKey(
  tx: Tx,
  { account, idempotency, sealer }: OnceOptions,
  change: () => Promise<Answered>,
): Promise<Reply> {
  if (!idempotency) return (await change()).reply;
  const { key } = idempotency;
  // A body may have a password in it: its plain digest would tell who guesses right.
  const requestHash = sealer?.digest(idempotency.requestHash) ?? idempotency.requestHash;
  const [first] = await tx.query(
    `insert into idempotency (account, key, request_hash, status, headers) values ($1, $2, $3, 0, '{}')
     on conflict do nothing returning 1`,
    [account, key, requestHash],
    "idempotency_insert",
  );
  // What a release before this one has stored has the plain digest.
  if (!first) return replay(tx, { account, key, sealer }, [requestHash, idempotency.requestHash]);
  const { reply, plain = reply } = await change();
  const sealed =
    plain !== reply && sealer?.seals ? sealer.seal(JSON.stringify(reply.body), purpose(account, key)) : null;
  tx.post(
    "update idempotency set status = $3, headers = $4, body = $5, sealed = $6 where account = $1 and key = $2",
    [account, key, reply.status, JSON.stringify(reply.headers), JSON.stringify(plain.body), sealed],
    "idempotency_reply",
  );
  return reply;
}

const purpose = (account: string, key: string) => `reply ${account} ${key}`;

async function replay(
  tx: Tx,
  { account, key, sealer }: { account: string; key: string; sealer: Sealer | undefined },
  requestHashes: readonly string[],
): Promise<Reply> {
  const [stored] = await tx.query<StoredReply>(
    "select request_hash, status, headers, body, sealed from idempotency where account = $1 and key = $2",
    [account, key],
  );
  if (!stored) throw new Fault("unavailable", "the first request with this key has not ended yet");
  if (!requestHashes.includes(stored.request_hash)) {
    throw new Fault("conflict", "this idempotency key was used for another request", {
      reason: "IDEMPOTENCY_KEY_REUSED",
    });
  }
  const { status, headers, body, sealed } = stored;
  const opened = sealed !== null && sealer ? sealer.unseal(sealed, purpose(account, key)) : undefined;
  return {
    status,
    headers: { ...headers, "idempotent-replayed": "true" },
    body: opened === undefined ? body : (JSON.parse(opened) as Reply["body"]),
  };
}
