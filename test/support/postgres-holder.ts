/** Starts a server in the folder it is given, prints its URL, and holds it until it is killed. */
import { EmbeddedPostgres } from "#cp/local/postgres.ts";
import { silentLogger } from "#kernel/log.ts";

const directory = process.argv[2] ?? "";
const server = await EmbeddedPostgres.start({
  directory,
  logFile: `${directory}.log`,
  log: silentLogger,
  signal: new AbortController().signal,
});
process.stdout.write(`${server.url}\n`);
await server.child.exited;
