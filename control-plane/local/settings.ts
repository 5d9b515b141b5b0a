import { resolve } from "node:path";
import { integer, readSettings, text, type SettingsOf } from "#kernel/settings.ts";

export const localSettings = {
  home: text({ env: "SKERRY_HOME", help: "Folder with all state of the local cloud.", default: ".skerry" }),
  listen: text({ env: "SKERRY_LISTEN", help: "Address of the public API.", default: "127.0.0.1" }),
  port: integer({ env: "PORT", help: "Port of the public API.", default: 8000, min: 1, max: 65535 }),
  gatewayListen: text({
    env: "SKERRY_GATEWAY_LISTEN",
    help: "Address on which agents dial in.",
    default: "127.0.0.1",
  }),
  gatewayPort: integer({
    env: "SKERRY_GATEWAY_PORT",
    help: "Port on which agents dial in.",
    default: 8001,
    min: 1,
    max: 65535,
  }),
  databaseUrl: text({
    env: "DATABASE_URL",
    secret: true,
    help: "PostgreSQL 15 or newer; without it one is embedded under SKERRY_HOME.",
    default: undefined,
  }),
  topology: text({
    env: "SKERRY_TOPOLOGY",
    help: "YAML file that lists the local hosts and overrides image names.",
    default: undefined,
  }),
  microDirectory: text({
    env: "SKERRY_MICRO_DIR",
    help: "Folder with the built-in image; npm start builds it.",
    default: undefined,
  }),
} as const;

export type LocalSettings = SettingsOf<typeof localSettings>;

/** Reads the launcher's settings. Names it does not know belong to the programs it starts, which check them. */
export function readLocalSettings(env: NodeJS.ProcessEnv, root: string): LocalSettings {
  const others = Object.keys(env).filter((name) => name.startsWith("SKERRY_"));
  const settings = readSettings(localSettings, env, { prefix: "SKERRY_", known: others });
  return { ...settings, home: resolve(root, settings.home) };
}
