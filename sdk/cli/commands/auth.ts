/** login, logout, whoami. */
import { Command, Option } from "commander";
import { Fault, isFault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";
import { Skerry } from "../../client.ts";
import { beginOidcLogin, finishOidcLogin, login } from "../../credentials.ts";
import { Transport } from "../../transport.ts";
import { ask, askSecretly, readLines } from "../asking.ts";
import { BrowserReturn } from "../browser-return.ts";
import { configPath, loadConfig, setProfile, updateConfig, type Profile } from "../config.ts";
import type { Run, Session } from "../session.ts";
import { parseDuration, parseInteger } from "../units.ts";

interface LoginOptions {
  readonly username?: string;
  readonly passwordStdin?: true;
  readonly mfaCode?: string;
  readonly apiKey?: string;
  readonly project?: string;
  readonly oidc?: true;
  readonly oidcPort?: number;
  /** Milliseconds. */
  readonly timeout?: number;
}

/** As long as the cloud remembers that a login was begun. */
const oidcLimitMs = 10 * 60_000;

/** The commands about who is asking. */
export function authCommands(run: Run): Command[] {
  return [
    new Command("login")
      .description("log in and remember it in a profile")
      .option("-u, --username <name>", "user name; asked for when missing")
      .option("--password-stdin", "read the password from standard input")
      .option("--mfa-code <code>", "one-time code, when the user has a second factor")
      .option("--project <project>", "name or id of the project to work in; default: your own")
      .option("--api-key <key>", "remember an API key instead of logging in")
      .addOption(
        new Option(
          "--oidc",
          "log in at the cloud's identity provider, with a browser on this machine",
        ).conflicts(["username", "passwordStdin", "mfaCode", "apiKey"]),
      )
      .option(
        "--oidc-port <port>",
        "where the browser comes back to, if the provider must know; default: any that is free",
        parseInteger(1, 65_535),
      )
      .option("--timeout <duration>", "how long to wait for the browser (default: 10m)", parseDuration)
      .action(run(logIn)),
    new Command("logout").description("forget a profile's login").action(run(logOut)),
    new Command("whoami").description("show the cloud and who it takes you for").action(run(whoAmI)),
  ];
}

async function logIn(session: Session, options: LoginOptions): Promise<void> {
  const { globals } = session;
  const path = configPath(session.terminal.env);
  const name = globals.profile ?? "default";
  const known = (await loadConfig(path)).profiles[name];
  const url = globals.url ?? known?.url ?? (await session.connection()).url;
  await setProfile(path, name, await profileOf(session, url, options));
  await updateConfig(path, (config) => ({ ...config, current: name }));
  session.out.done(`Logged in to ${url} (profile ${name}).`, { url, profile: name });
}

/** What is remembered of a login. */
async function profileOf(session: Session, url: string, options: LoginOptions): Promise<Profile> {
  const { signal } = session;
  const { apiKey, mfaCode, project } = options;
  if (apiKey !== undefined) {
    await new Skerry({ url, apiKey }).whoami({ signal });
    return { url, api_key: apiKey };
  }
  if (options.oidc) return throughBrowser(session, url, options);
  const username = options.username ?? (await ask(session, "User name: ", "--username"));
  const [password = ""] = options.passwordStdin
    ? await readLines(session, 1)
    : [await askSecretly(session, "Password: ")];
  const given = { username, password, ...(mfaCode && { mfaCode }), ...(project && { project }) };
  const tokens = await login(new Transport({ url }), given, signal);
  return { url, username, ...(project && { project }), tokens };
}

async function throughBrowser(session: Session, url: string, options: LoginOptions): Promise<Profile> {
  const { project, oidcPort = 0, timeout = oidcLimitMs } = options;
  const transport = new Transport({ url });
  await using browser = await BrowserReturn.open(oidcPort);
  using limit = deadline(timeout, "waiting for the browser", session.signal);
  const wish = { redirectUri: browser.url, project };
  const { authorization_url, state } = await beginOidcLogin(transport, wish, limit).catch(
    (thrown: unknown) => {
      if (!isFault(thrown, "notFound")) throw thrown;
      throw new Fault("notFound", "this cloud has no identity provider", {
        reason: "OIDC_NOT_OFFERED",
        cause: thrown,
      });
    },
  );
  session.note(`Log in at\n\n  ${authorization_url}\n\nwith a browser on this machine.`);
  const code = await browser.code(state, limit);
  const tokens = await finishOidcLogin(transport, { state, code }, limit);
  const { username } = await new Skerry({ url, token: tokens.accessToken }).whoami({ signal: limit });
  return { url, username, ...(project && { project }), tokens };
}

async function logOut(session: Session): Promise<void> {
  const path = configPath(session.terminal.env);
  const config = await loadConfig(path);
  const name = session.globals.profile ?? config.current;
  const profile = config.profiles[name];
  if (profile?.tokens) {
    const { accessToken, refreshToken } = profile.tokens;
    const transport = new Transport({ url: profile.url, attempts: 1 });
    const headers = { authorization: `Bearer ${accessToken}` };
    const call = {
      method: "POST",
      path: "/v1/auth/logout",
      headers,
      body: { refresh_token: refreshToken },
    } as const;
    // The login is forgotten here in any case; a cloud that is away lets it expire by itself.
    await transport.json({ ...call, signal: session.signal, timeoutMs: 5000 }).catch((thrown: unknown) => {
      const why = thrown instanceof Error ? thrown.message : "no answer";
      session.note(`the cloud was not told (${why}); the login ends there by itself`);
    });
  }
  if (profile) await setProfile(path, name, undefined);
  session.out.done(profile ? `Forgot profile ${name}.` : `There is no profile ${name}.`, { profile: name });
}

async function whoAmI(session: Session): Promise<void> {
  const { url, source } = await session.connection();
  const identity = await (await session.cloud()).whoami({ signal: session.signal });
  session.out.show({ url, source, ...identity }, [
    ["cloud", url],
    ["found in", source],
    ["user", identity.username],
    ["id", identity.id],
    ["project", identity.project],
    ["role", identity.role],
  ]);
}
