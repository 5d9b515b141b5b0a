import path from "node:path";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { z } from "zod";
import { AccountStore } from "#cp/app/account-store.ts";
import { Accounts } from "#cp/app/accounts.ts";
import { IdentityStore } from "#cp/app/identity-store.ts";
import { Passwords } from "#cp/app/passwords.ts";
import { RateLimits } from "#cp/app/rate-limits.ts";
import { Sealer } from "#cp/app/sealer.ts";
import { SecondFactor } from "#cp/app/second-factor.ts";
import { SessionStore } from "#cp/app/session-store.ts";
import { SigningKeys } from "#cp/app/signing-keys.ts";
import { Tokens } from "#cp/app/tokens.ts";
import { problemSchema, problemType, toProblem } from "#cp/http/faults.ts";
import { defineRoute, type Surface } from "#cp/http/route.ts";
import { HttpServer, type HttpServerOptions } from "#cp/http/server.ts";
import { root } from "#cp/local/programs.ts";
import { Database } from "#cp/store/database.ts";
import { migrate } from "#cp/store/migrate.ts";
import { silentLogger } from "#kernel/log.ts";
import type { BenchContext, Benchmark } from "./support/benchmark.ts";
import { benchDatabase } from "./support/database.ts";
import { measureRate } from "./support/load.ts";
import { median } from "./support/statistics.ts";

const rounds = 9;
const roundSeconds = 0.7;
const user = { username: "admin", password: "correct horse battery staple" };
const log = silentLogger;

export const benchmark: Benchmark = {
  summary:
    "What it adds to a request to know who asks, to ask whether they may, and to count it: the same small route with " +
    `all of that and without, one request at a time, ${rounds} rounds by turns, medians of medians.`,

  async run(bench) {
    const { url } = await benchDatabase(bench);
    const database = new Database({ url, maxConnections: 4, log });
    bench.teardown(() => database[Symbol.asyncDispose]());
    await migrate(database, new URL(`file://${path.join(root, "control-plane/store/migrations/")}`), log);
    const { tokens, authorization } = await logIn(bench, database);
    // More than can be asked for here, so that shares are fetched now and then, as they are in life.
    const windows = { enterprise: [{ limit: 10_000_000, seconds: 3600 }] };
    const rates = new RateLimits({ database, table: { bench: windows }, log });

    const guarded = await serve(bench, "viewer", { authenticator: tokens, rates });
    const open = await serve(bench, "anyone", { authenticator: tokens });
    const measure = async (url: string) => {
      const target = { url, pid: process.pid };
      return (await measureRate(target, { authorization, connections: 1, seconds: roundSeconds })).medianMs;
    };
    for (const url of [guarded, open]) await measure(url);
    const added: number[] = [];
    const bare: number[] = [];
    for (let index = 0; index < rounds; index++) {
      const first = index % 2 === 0 ? await measure(guarded) : undefined;
      const without = await measure(open);
      bare.push(without);
      added.push((first ?? (await measure(guarded))) - without);
      bench.say(
        `round ${index + 1}: ${micros(without)} us without, ${micros(added.at(-1) ?? 0)} us more with`,
      );
    }
    return { request_us: micros(median(bare)), added_us: micros(median(added)) };
  },
};

const micros = (ms: number): number => Math.round(ms * 1000);

async function logIn(bench: BenchContext, database: Database) {
  const directory = await mkdtemp(path.join(tmpdir(), "skb-"));
  bench.teardown(() => rm(directory, { recursive: true }));
  const sealer = await Sealer.open(path.join(directory, "secret.key"));
  const identities = new IdentityStore(database);
  const tokens = new Tokens({ keys: await SigningKeys.open({ database, sealer }), identities });
  const accounts = new Accounts({
    store: new AccountStore(database),
    sessions: new SessionStore(database),
    identities,
    passwords: new Passwords(),
    secondFactor: new SecondFactor({ database, sealer }),
    tokens,
  });
  await accounts.ensureFirst(user.username, user.password);
  const { access_token: token } = await accounts.login(user);
  return { tokens, authorization: `Bearer ${token}` };
}

/** A server with one route, which does nothing; gives its address. */
async function serve(
  bench: BenchContext,
  role: "viewer" | "anyone",
  guards: Pick<HttpServerOptions, "authenticator" | "rates">,
): Promise<string> {
  const surface: Surface = {
    name: "bench",
    title: "Bench",
    prefixes: ["/bench"],
    errorSchema: problemSchema,
    errorContentType: problemType,
    encodeFault: (fault, { requestId }) => toProblem(fault, requestId),
    routes: [
      defineRoute({
        method: "GET",
        path: "/bench",
        operationId: "bench",
        summary: "Nothing",
        tag: "bench",
        role,
        answers: { 200: { description: "nothing", schema: z.object({}) } },
        handle: async () => ({ status: 200, headers: {}, body: {} }),
      }),
    ],
  };
  const server = new HttpServer({ surfaces: [surface], fallback: surface, log, ...guards });
  const { port } = await server.listen(0, "127.0.0.1");
  bench.teardown(() => server.stop(0));
  return `http://127.0.0.1:${port}/bench`;
}
