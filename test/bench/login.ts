import { Passwords } from "#cp/app/passwords.ts";
import { Fault } from "#kernel/fault.ts";
import { login } from "#sdk/credentials.ts";
import { Transport } from "#sdk/transport.ts";
import type { Benchmark } from "./support/benchmark.ts";
import { benchCloud } from "./support/cloud.ts";
import { timeInFlight } from "./support/in-flight.ts";
import { median, percentile, round } from "./support/statistics.ts";

const rounds = 40;
const parallel = 4;

export const benchmark: Benchmark = {
  summary:
    `Logins by password, ${rounds} one after another by turns with Argon2id alone at the same cost, then as many with ` +
    `${parallel} in flight; milliseconds.`,

  async run(bench) {
    const { cloud, client } = await benchCloud(bench, { agents: 1 });
    const { password } = await client.users.add({ name: "ann" });
    if (password === undefined) throw new Fault("internal", "the new user has no password");
    const transport = new Transport({ url: cloud.url });
    const logIn = async () => void (await login(transport, { username: "ann", password }, bench.signal));
    const passwords = new Passwords();
    const hashed = await passwords.hash(password);

    for (let index = 0; index < 5; index++) await logIn();
    const [logins, hashes]: [number[], number[]] = [[], []];
    for (let index = 0; index < rounds; index++) {
      logins.push(...(await timeInFlight(1, 1, logIn)));
      hashes.push(
        ...(await timeInFlight(1, 1, async () => void (await passwords.matches(hashed, password)))),
      );
    }
    const started = performance.now();
    const together = await timeInFlight(rounds, parallel, logIn);
    return {
      login_ms: round(median(logins)),
      login_p99_ms: round(percentile(logins, 0.99)),
      argon2_ms: round(median(hashes)),
      beyond_argon2_ms: round(median(logins) - median(hashes)),
      in_flight_login_ms: round(median(together)),
      in_flight_per_second: round((rounds * 1000) / (performance.now() - started)),
    };
  },
};
