/** Faults of the core in the words of a dialect's kind: its names of fields, its names of ids. */
import { Fault, type Json } from "#kernel/fault.ts";
import { detailOf } from "../http/faults.ts";
import type { Answer, Call } from "../http/route.ts";
import type { AnyDialectKind } from "./dialect.ts";

type Words = Pick<AnyDialectKind, "fields" | "idName" | "noun">;

/** Runs a handler; what it throws speaks of the kind as the dialect does. */
export function inWordsOf<Query, Body>(
  words: Words,
  handle: (call: Call<Query, Body>) => Promise<Answer>,
): (call: Call<Query, Body>) => Promise<Answer> {
  return async (call) => {
    try {
      return await handle(call);
    } catch (thrown) {
      if (!(thrown instanceof Fault)) throw thrown;
      const id = call.params[words.idName];
      if (thrown.code === "notFound" && id !== undefined) throw missing(words, thrown, id.slice(0, 80));
      throw withFieldNames(thrown, renamer(words.fields));
    }
  };
}

function missing({ noun, idName }: Words, { reason, cause }: Fault, id: string): Fault {
  const detail = { [idName]: id };
  return new Fault("notFound", `${noun} with ID ${id} not found`, { reason, cause, detail });
}

/** Only what the core says of its spec and labels is renamed: a field of the request itself is called as it was sent. */
export function renamer(fields: Readonly<Record<string, string>>): (field: string) => string {
  return (field) => {
    if (!field.startsWith("spec.") && !field.startsWith("labels")) return field;
    const path = field.replace(/^spec\./, "");
    const [first = "", ...rest] = path.split(".");
    const whole = fields[path];
    if (whole !== undefined) return whole;
    return [fields[first] ?? first, ...rest].join(".");
  };
}

/** The fault with its fields called by other names; messages about one field begin with its name. */
export function withFieldNames(fault: Fault, rename: (field: string) => string): Fault {
  const { fields, field, ...rest } = detailOf(fault);
  const [, subject, words] = /^(spec\.[\w.]+|labels[^:]*)(: .*)$/s.exec(fault.message) ?? [];
  const message = subject && words ? `${rename(subject)}${words}` : fault.message;
  const { code, reason, cause, retryable } = fault;
  const detail = {
    ...rest,
    ...(field !== undefined && { field: typeof field === "string" ? rename(field) : field }),
    ...(fields !== undefined && {
      fields: Array.isArray(fields) ? fields.map((entry: Json) => renameField(entry, rename)) : fields,
    }),
  };
  return new Fault(code, message, { reason, cause, retryable, detail });
}

function renameField(entry: Json, rename: (field: string) => string): Json {
  if (typeof entry !== "object" || entry === null || !("field" in entry)) return entry;
  return typeof entry.field === "string" ? { ...entry, field: rename(entry.field) } : entry;
}
