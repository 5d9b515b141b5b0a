/**
 * Settings of one process: declared once with a sentence of help each, read once from the
 * environment, frozen. A misspelt or malformed setting stops the start, and all mistakes are
 * told at once. A secret may stand in a file instead, which `<NAME>_FILE` names.
 */
import { readFileSync } from "node:fs";
import { Fault } from "./fault.ts";

export interface Setting<T> {
  readonly env: string;
  readonly help: string;
  readonly secret?: boolean;
  /** How the default reads in the printed list; the value itself comes from `fallback`. */
  readonly shownDefault: string;
  fallback(): T;
  parse(text: string): T;
}

export type Settings = { readonly [name: string]: Setting<unknown> };
export type SettingsOf<S extends Settings> = {
  readonly [K in keyof S]: S[K] extends Setting<infer T> ? T : never;
};

interface Common<T> {
  readonly env: string;
  readonly help: string;
  readonly secret?: boolean;
  readonly default: T;
}

function setting<T>(common: Common<T>, parse: (text: string) => T): Setting<T> {
  return {
    env: common.env,
    help: common.help,
    secret: common.secret ?? false,
    shownDefault: common.default === undefined ? "" : String(common.default),
    fallback: () => common.default,
    parse,
  };
}

export const text = <T extends string | undefined>(common: Common<T>): Setting<T | string> =>
  setting<T | string>(common, (value) => value);

export const integer = (common: Common<number> & { min: number; max: number }): Setting<number> =>
  setting(common, (value) => {
    const parsed = Number(value);
    if (!Number.isInteger(parsed) || parsed < common.min || parsed > common.max) {
      throw new Error(`must be a whole number from ${String(common.min)} to ${String(common.max)}`);
    }
    return parsed;
  });

export const number = (common: Common<number> & { min: number; max: number }): Setting<number> =>
  setting(common, (value) => {
    const parsed = value.trim() === "" ? NaN : Number(value);
    if (!(parsed >= common.min && parsed <= common.max)) {
      throw new Error(`must be a number from ${String(common.min)} to ${String(common.max)}`);
    }
    return parsed;
  });

export const flag = (common: Common<boolean>): Setting<boolean> =>
  setting(common, (value) => {
    if (["1", "true", "yes", "on"].includes(value.toLowerCase())) return true;
    if (["0", "false", "no", "off", ""].includes(value.toLowerCase())) return false;
    throw new Error("must be true or false");
  });

export const oneOf = <const T extends readonly string[]>(
  common: Common<T[number]> & { values: T },
): Setting<T[number]> =>
  setting(common, (value) => {
    if (!common.values.includes(value)) throw new Error(`must be one of ${common.values.join(", ")}`);
    return value;
  });

/** A comma-separated list; empty parts are dropped. */
export const list = (common: Common<readonly string[]>): Setting<readonly string[]> =>
  setting(common, (value) =>
    value
      .split(",")
      .map((part) => part.trim())
      .filter((part) => part !== ""),
  );

/**
 * Reads all settings from `env`. Throws one `invalid` fault that lists every mistake:
 * malformed values, and variables that start with `prefix` and are in neither `settings` nor `known`.
 */
export function readSettings<S extends Settings>(
  settings: S,
  env: Readonly<Record<string, string | undefined>>,
  options: { readonly prefix: string; readonly known?: readonly string[] },
): SettingsOf<S> {
  const mistakes: string[] = [];
  const values: Record<string, unknown> = {};
  const names = new Set([...Object.values(settings).flatMap(namesOf), ...(options.known ?? [])]);
  for (const [name, declared] of Object.entries(settings)) {
    let given = env[declared.env];
    try {
      if (declared.secret) given = secretOf(declared.env, env);
      values[name] = given === undefined ? declared.fallback() : declared.parse(given);
    } catch (error) {
      const shown = declared.secret ? "(secret)" : JSON.stringify(given);
      mistakes.push(`${declared.env}=${shown} ${(error as Error).message}`);
    }
  }
  for (const name of Object.keys(env)) {
    if (name.startsWith(options.prefix) && !names.has(name)) mistakes.push(`${name} is not a setting`);
  }
  if (mistakes.length > 0) {
    throw new Fault("invalid", `settings are wrong:\n  ${mistakes.sort().join("\n  ")}`, {
      reason: "SETTINGS_INVALID",
      detail: { mistakes },
    });
  }
  return Object.freeze(values) as SettingsOf<S>;
}

/** A secret may be in a file as well: what stands in an environment can be seen by all that belongs to the same user. */
const fileOf = (name: string) => `${name}_FILE`;

const namesOf = ({ env, secret }: Setting<unknown>): readonly string[] =>
  secret ? [env, fileOf(env)] : [env];

function secretOf(name: string, env: Readonly<Record<string, string | undefined>>): string | undefined {
  const file = env[fileOf(name)];
  if (file === undefined) return env[name];
  if (env[name] !== undefined) throw new Error(`is given, and so is ${fileOf(name)}`);
  try {
    return readFileSync(file, "utf8").replace(/\r?\n$/, "");
  } catch (error) {
    throw new Error(`cannot be read from ${file}: ${(error as NodeJS.ErrnoException).code ?? ""}`, {
      cause: error,
    });
  }
}

/** The list that `--print-settings` shows: one line of value and one of help each, secrets redacted. */
export function printSettings<S extends Settings>(settings: S, values: SettingsOf<S>): string {
  return Object.entries(settings)
    .map(([name, declared]) => {
      const value = values[name];
      const shown = declared.secret && value !== undefined ? "(secret)" : String(value ?? "");
      return `${declared.env}=${shown}\n    ${declared.help} Default: ${declared.shownDefault || "none"}.`;
    })
    .join("\n");
}
