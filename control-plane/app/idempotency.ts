import { Fault } from "#kernel/fault.ts";
import type { Tx } from "../store/database.ts";
import type { MutationOptions, Reply } from "./resource-api.ts";

interface StoredReply {
  readonly request_hash: string;
  readonly status: number;
  readonly headers: Reply["headers"];
  readonly body: Reply["body"];
}

/**
 * Runs a change at most once per account and key: the key, the change and the reply are one
 * transaction, and a second request with the key waits for the first to end. The same key with another
 * request is a `conflict`.
 */
export async function oncePerKey(
  tx: Tx,
  account: string,
  idempotency: MutationOptions["idempotency"],
  change: () => Promise<Reply>,
): Promise<Reply> {
  if (!idempotency) return change();
  const { key, requestHash } = idempotency;
  const [first] = await tx.query(
    `insert into idempotency (account, key, request_hash, status, headers) values ($1, $2, $3, 0, '{}')
     on conflict do nothing returning 1`,
    [account, key, requestHash],
    "idempotency_insert",
  );
  if (!first) return replay(tx, account, key, requestHash);
  const reply = await change();
  tx.post(
    "update idempotency set status = $3, headers = $4, body = $5 where account = $1 and key = $2",
    [account, key, reply.status, JSON.stringify(reply.headers), JSON.stringify(reply.body)],
    "idempotency_reply",
  );
  return reply;
}

async function replay(tx: Tx, account: string, key: string, requestHash: string): Promise<Reply> {
  const [stored] = await tx.query<StoredReply>(
    "select request_hash, status, headers, body from idempotency where account = $1 and key = $2",
    [account, key],
  );
  if (!stored) throw new Fault("unavailable", "the first request with this key has not ended yet");
  if (stored.request_hash !== requestHash) {
    throw new Fault("conflict", "this idempotency key was used for another request", {
      reason: "IDEMPOTENCY_KEY_REUSED",
    });
  }
  return {
    status: stored.status,
    headers: { ...stored.headers, "idempotent-replayed": "true" },
    body: stored.body,
  };
}
