/**
 * Which cloud a command speaks to, and as whom. In this order: options, environment, profile, the local
 * cloud of the checkout. A token is never sent to another cloud than the one it was made for.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Fault } from "#kernel/fault.ts";
import type { SkerryOptions } from "../client.ts";
import { configPath, loadConfig, profileTokens, type Environment, type Profile } from "./config.ts";

export interface ConnectionOptions {
  readonly url?: string | undefined;
  readonly token?: string | undefined;
  readonly profile?: string | undefined;
}

export type Connection = Pick<SkerryOptions, "token" | "apiKey" | "tokenStore"> & {
  readonly url: string;
  /** For messages: where this was found. */
  readonly source: string;
};

/** The top of the checkout that this file belongs to, whether it runs from sources or from the build. */
export const checkout = fileURLToPath(
  new URL(import.meta.url.endsWith(".ts") ? "../../" : "../../../", import.meta.url),
);

/** Finds the cloud and the credentials; throws NO_CLOUD when nothing names one. */
export async function findConnection(options: ConnectionOptions, env: Environment): Promise<Connection> {
  const url = options.url ?? env["SKERRY_URL"];
  const token = options.token ?? env["SKERRY_TOKEN"];
  const stored = await findStored(options, env);
  if (url === undefined) {
    if (!stored) throw noCloud();
    return token === undefined ? stored : { url: stored.url, source: stored.source, ...readToken(token) };
  }
  if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol)) {
    throw new Fault("invalid", `${url} is not an http or https address`, { reason: "URL_INVALID" });
  }
  const given = { url, source: options.url ? "--url" : "SKERRY_URL" };
  if (token !== undefined) return { ...given, ...readToken(token) };
  return stored && sameOrigin(stored.url, url) ? { ...stored, url } : given;
}

const noCloud = () => new Fault("unauthenticated", "no cloud is known here", { reason: "NO_CLOUD" });

/** API keys look like `sk_...`; everything else is a bearer token. */
const readToken = (text: string) => (text.startsWith("sk_") ? { apiKey: text } : { token: text });

const sameOrigin = (a: string, b: string): boolean => new URL(a).origin === new URL(b).origin;

async function findStored(options: ConnectionOptions, env: Environment): Promise<Connection | undefined> {
  const path = configPath(env);
  const config = await loadConfig(path);
  const named = options.profile ?? env["SKERRY_PROFILE"];
  const name = named ?? config.current;
  const profile = config.profiles[name];
  if (profile) return connectionOf(profile, name, path);
  if (named !== undefined) {
    const message = `there is no profile ${named}; known: ${Object.keys(config.profiles).join(", ") || "none"}`;
    throw new Fault("notFound", message, { reason: "NO_SUCH_PROFILE" });
  }
  return findLocalCloud(env);
}

function connectionOf(profile: Profile, name: string, path: string): Connection {
  const source = `profile ${name}`;
  if (profile.api_key !== undefined) return { url: profile.url, source, apiKey: profile.api_key };
  return { url: profile.url, source, tokenStore: profileTokens(path, name) };
}

/** Folders where the local cloud may keep its state. */
export function localHomes(env: Environment): readonly string[] {
  const home = env["SKERRY_HOME"];
  return home ? [home] : [...new Set([join(process.cwd(), ".skerry"), join(checkout, ".skerry")])];
}

/** The credentials that `npm start` has left. */
async function findLocalCloud(env: Environment): Promise<Connection | undefined> {
  for (const home of localHomes(env)) {
    const path = join(home, "credentials.json");
    const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT" || error.code === "ENOTDIR") return undefined;
      throw new Fault("denied", `cannot read ${path}: ${error.message}`, {
        reason: "CONFIG_UNREADABLE",
        cause: error,
      });
    });
    if (text === undefined) continue;
    const { url, api_key: apiKey } = JSON.parse(text) as { url: string; api_key: string };
    return { url, apiKey, source: path };
  }
  return undefined;
}
