/** The cloud as seen from here: reachable, ready, let in, on time, and its hosts. */
import { connect, createServer } from "node:net";
import { toFault, type Fault } from "#kernel/fault.ts";
import type { Skerry } from "../../client.ts";
import { Transport } from "../../transport.ts";
import { fail, ok, warn, type Finding } from "./finding.ts";

const limitMs = 5000;

interface Readiness {
  readonly checks?: readonly { readonly name: string; readonly ready: boolean }[];
}

/** API, its parts (the database among them), and the clock against the server's. */
export async function checkApi(url: string, signal: AbortSignal): Promise<readonly Finding[]> {
  const transport = new Transport({ url, attempts: 1 });
  const sentAt = Date.now();
  try {
    const response = await transport.response({ method: "GET", path: "/readyz", signal, timeoutMs: limitMs });
    const clock = checkClock(response.headers.get("date"), sentAt, Date.now());
    const { checks } = (await response.json()) as Readiness;
    return [ok("api", `${url} is ready`), ...partsOf(checks), clock];
  } catch (thrown) {
    const fault = toFault(thrown);
    if (fault.reason !== "NOT_READY") {
      return [fail("api", fault.message, "start the cloud (`npm start`), or set --url to where it is")];
    }
    const { checks } = fault.detail as unknown as Readiness;
    return [fail("api", fault.message, "see the control plane's log"), ...partsOf(checks)];
  }
}

const partsOf = (checks: Readiness["checks"]): readonly Finding[] =>
  (checks ?? []).map(({ name, ready }) =>
    ready ? ok(name, "ready") : fail(name, "the control plane cannot use it", remedyOf(name)),
  );

const remedyOf = (part: string): string =>
  part === "database" ? "is PostgreSQL running, and DATABASE_URL right?" : "see the control plane's log";

/** The server's time has whole seconds, so half a second is added; less than two is noise. */
export function checkClock(date: string | null, sentAt: number, receivedAt: number): Finding {
  const name = "clock";
  const serverMs = date === null ? NaN : Date.parse(date) + 500;
  if (Number.isNaN(serverMs))
    return warn(name, "the server did not tell its time", "compare the clocks by hand");
  const off = Math.round(((sentAt + receivedAt) / 2 - serverMs) / 1000);
  const detail = `${Math.abs(off)} s ${off < 0 ? "behind" : "ahead of"} the cloud`;
  const remedy = "synchronise it: timedatectl set-ntp true";
  if (Math.abs(off) < 2) return ok(name, "agrees with the cloud");
  return Math.abs(off) < 60
    ? warn(name, detail, remedy)
    : fail(name, `${detail}: certificates may not be valid yet`, remedy);
}

/** Is the caller known, and are the hosts there? */
export async function checkAccess(cloud: Skerry, signal: AbortSignal): Promise<readonly Finding[]> {
  const options = { signal, timeoutMs: limitMs };
  try {
    const { username, role } = await cloud.whoami(options);
    const hosts = await cloud.hosts.list({}, options).all();
    const away = hosts.filter((host) => host.phase === "offline").map((host) => host.name);
    const summary = `${hosts.length} hosts, ${hosts.length - away.length} online`;
    return [
      ok("login", `${username} (${role})`),
      hosts.length === 0
        ? warn("hosts", "there are none", "join one: skerry host token, then skerry agent join")
        : away.length === 0
          ? ok("hosts", summary)
          : warn(
              "hosts",
              `${summary}; offline: ${away.join(", ")}`,
              "is the agent running there? journalctl -u skerry-agent",
            ),
    ];
  } catch (thrown) {
    return [denied(toFault(thrown))];
  }
}

const denied = (fault: Fault): Finding => fail("login", fault.message, "skerry login, or set SKERRY_TOKEN");

/** The ports of a local cloud: taken by it, free for it, or taken by something else. */
export async function checkPort(
  setting: string,
  host: string,
  port: number,
  answers: boolean,
): Promise<Finding> {
  const name = `port ${port}`;
  if (answers) return ok(name, "the cloud answers on it");
  if (await canConnect(host, port)) {
    return fail(name, "another program has it", `stop that program, or choose another port with ${setting}`);
  }
  return (await canListen(host, port))
    ? ok(name, "free")
    : fail(name, "it cannot be listened on", `choose another port with ${setting}`);
}

/** Does somebody accept connections there? */
export function canConnect(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: 2000 });
    const end = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.once("connect", () => end(true));
    socket.once("error", () => end(false));
    socket.once("timeout", () => end(false));
  });
}

function canListen(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, host, () => server.close(() => resolve(true)));
  });
}
