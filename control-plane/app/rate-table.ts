/** How many requests each plan allows, as an operator writes it: `100/s`, `1000/h`. */
import { plans, type Plan } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";

export interface RateWindow {
  readonly limit: number;
  readonly seconds: number;
}

/** By API and plan, the windows that all hold at once; the first is the one that clients are told of. */
export type RateTable = Readonly<
  Record<string, Readonly<Partial<Record<Plan | "anonymous", readonly RateWindow[]>>>>
>;

const secondsOf = { s: 1, min: 60, h: 3600, d: 86_400 } as const;
const pattern = /^(\d{1,12})\/(s|min|h|d)$/;

/** Reads windows such as `1000/h 100/min`; none: no limit. */
export function parseWindows(name: string, texts: readonly string[]): readonly RateWindow[] {
  return texts.map((text) => {
    const [, limit = "", unit = ""] = pattern.exec(text) ?? [];
    if (Number(limit) >= 1)
      return { limit: Number(limit), seconds: secondsOf[unit as keyof typeof secondsOf] };
    throw new Fault("invalid", `${name}: ${text} is not a rate such as 1000/h (s, min, h or d)`, {
      reason: "SETTINGS_INVALID",
    });
  });
}

/** The settings of rates, by API and plan. */
export interface RateSettings {
  readonly [setting: `rate${string}`]: readonly string[];
}

const apis = ["atonix", "services", "novacron"] as const;

/** The table of all settings called `rate<Api><Plan>`. */
export function rateTableOf(settings: RateSettings): RateTable {
  const capital = (word: string) => word.charAt(0).toUpperCase() + word.slice(1);
  return Object.fromEntries(
    apis.map((api) => [
      api,
      Object.fromEntries(
        [...plans, "anonymous"].map((plan) => {
          const name = `rate${capital(api)}${capital(plan)}` as const;
          return [plan, parseWindows(name, settings[name] ?? [])];
        }),
      ),
    ]),
  );
}
