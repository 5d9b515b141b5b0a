/** Query parameters: text on the wire, checked and turned into values by the schemas the document shows. */
import { z } from "zod";

const integerText = /^\d{1,12}$/;

/** A whole number. Its documented form is kept in the metadata that the OpenAPI generator reads. */
export function integerParameter(range: { min: number; max: number; description: string; default?: number }) {
  const { min, max, description } = range;
  const documented = { type: "integer", minimum: min, maximum: max };
  return z
    .string()
    .regex(integerText, `must be a whole number from ${min} to ${max}`)
    .transform(Number)
    .pipe(z.number().min(min).max(max))
    .meta({
      description,
      parameter: range.default === undefined ? documented : { ...documented, default: range.default },
    });
}

/** A parameter that is on when it is there: `?watch`, `?watch=true`, `?watch=1`. */
export const flagParameter = (description: string) =>
  z
    .enum(["", "true", "1", "false", "0"])
    .transform((text) => text !== "false" && text !== "0")
    .meta({ description, parameter: { type: "boolean" }, allowEmptyValue: true });

const dateOnly = /^\d{4}-\d{2}-\d{2}$/;
const dateTime = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:\d{2})$/;

/** RFC 3339, or a date: a start then means its first instant, an end its last. */
export const timeParameter = (description: string, edge: "start" | "end") =>
  z
    .string()
    .transform((text, context) => {
      const day = text.slice(0, 10);
      const time = dateOnly.test(text)
        ? Date.parse(`${text}T00:00:00Z`) + (edge === "end" ? 86_400_000 - 1 : 0)
        : dateTime.test(text)
          ? Date.parse(text)
          : NaN;
      // The parser takes 30 February for 2 March.
      if (Number.isNaN(time) || !new Date(`${day}T00:00:00Z`).toISOString().startsWith(day)) {
        context.addIssue({ code: "custom", message: "must be an RFC 3339 time or a date" });
        return z.NEVER;
      }
      return new Date(time);
    })
    .meta({ description, parameter: { type: "string", format: "date-time" } });

/** Some of `values`, comma-separated. */
export const listParameter = <const T extends readonly [string, ...string[]]>(
  values: T,
  description: string,
) =>
  z
    .string()
    .max(255)
    .transform((text) => text.split(","))
    .pipe(z.array(z.enum(values)))
    .meta({
      description,
      parameter: { type: "array", items: { type: "string", enum: [...values] } },
      explode: false,
    });
