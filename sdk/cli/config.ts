/**
 * The command line's memory: clouds and logins by profile, in one file that only its owner can read,
 * replaced as a whole so that a crash or a second command never leaves half of it.
 */
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { Fault } from "#kernel/fault.ts";
import type { Tokens, TokenStore } from "../credentials.ts";

export interface Profile {
  readonly url: string;
  readonly username?: string | undefined;
  /** As it was named at the login; the user's own when it was not. */
  readonly project?: string | undefined;
  readonly api_key?: string | undefined;
  readonly tokens?: Tokens | undefined;
}

export interface Config {
  /** The profile in use when none is named. */
  readonly current: string;
  readonly profiles: Readonly<Record<string, Profile>>;
}

export type Environment = Readonly<Record<string, string | undefined>>;

const empty: Config = { current: "default", profiles: {} };

/** `$XDG_CONFIG_HOME/skerry/config.json`, or below `~/.config`. */
export function configPath(env: Environment): string {
  return join(env["XDG_CONFIG_HOME"] || join(env["HOME"] || homedir(), ".config"), "skerry", "config.json");
}

/** Reads the file; without one, an empty config. */
export async function loadConfig(path: string): Promise<Config> {
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw new Fault("unavailable", `cannot read ${path}: ${error.message}`, {
      reason: "CONFIG_UNREADABLE",
      retryable: false,
      cause: error,
    });
  });
  if (text === undefined) return empty;
  try {
    const parsed = JSON.parse(text) as Partial<Config>;
    return { current: parsed.current ?? empty.current, profiles: parsed.profiles ?? {} };
  } catch (cause) {
    const message = `${path} is not JSON: mend it, or remove it and log in again`;
    throw new Fault("invalid", message, { reason: "CONFIG_MALFORMED", cause });
  }
}

/** Changes the file: reads it afresh, so that what another command wrote meanwhile is kept. */
export async function updateConfig(path: string, change: (config: Config) => Config): Promise<void> {
  const next = change(await loadConfig(path));
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const temporary = `${path}.${process.pid}`;
  await writeFile(temporary, `${JSON.stringify(next, undefined, 2)}\n`, { mode: 0o600 });
  await rename(temporary, path);
}

/** Sets one profile, or removes it. */
export function setProfile(path: string, name: string, profile: Profile | undefined): Promise<void> {
  return updateConfig(path, (config) => {
    const { [name]: _previous, ...others } = config.profiles;
    return { ...config, profiles: profile ? { ...others, [name]: profile } : others };
  });
}

/** The login of one profile, kept in the file. */
export function profileTokens(path: string, name: string): TokenStore {
  return {
    load: async () => (await loadConfig(path)).profiles[name]?.tokens,
    save: (tokens) =>
      updateConfig(path, (config) => {
        const profile = config.profiles[name];
        if (!profile) return config; // logged out meanwhile
        return { ...config, profiles: { ...config.profiles, [name]: { ...profile, tokens } } };
      }),
  };
}
