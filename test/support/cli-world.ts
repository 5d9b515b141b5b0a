/** A cloud that says what a test tells it to say, and the `skerry` command that is pointed at it. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { anInstance, page, ScriptedCloud } from "./scripted-cloud.ts";
import { runInProcess } from "./command-line.ts";
import type { Teardown } from "./postgres.ts";

/** The path of the cloud's instances. */
export const instances = "/skerry/v1/instances";
/** The instance that most tests speak of. */
export const web = anInstance();

const host = {
  id: "host-0123456789abcdefghjk",
  kind: "host",
  name: "site-a",
  phase: "online",
  problem: null,
  spec: { provider: "aws", region: "us-east-1", zone: "", location: null, prices: null, cordoned: false },
  status: null,
  created_at: "2026-01-01T00:00:00.000Z",
};

/** A cloud with one host, and the command in this process. */
export async function makeCliWorld(t: Teardown) {
  const server = await ScriptedCloud.start();
  t.teardown(() => server[Symbol.asyncDispose]());
  const home = await makeHome(t);
  const env = { XDG_CONFIG_HOME: home, SKERRY_HOME: home, SKERRY_URL: server.url, SKERRY_TOKEN: "sk_1" };
  server.on("GET /skerry/v1/hosts", page([host]));
  return { server, home, env, skerry: (...args: string[]) => runInProcess(args, env) };
}

/** An empty folder for what the command keeps; it goes with the test. */
export async function makeHome(t: Teardown): Promise<string> {
  const made = await mkdtemp(join(tmpdir(), "skerry-cli-"));
  t.teardown(() => rm(made, { recursive: true, force: true }));
  return made;
}
