/**
 * Sends requests to an API that knows nothing of it but what its own documents say, and takes the
 * documents at their word: what they call an answer is what has to come. Ids and names out of answers are used
 * again under the same name, in paths, queries and bodies, also after they have been deleted.
 */
import type { z } from "zod";
import { answerSchema, bodySchema, errorSchemaOf } from "./openapi.ts";
import { SchemaValues, type JsonSchema } from "./schema-values.ts";

interface Parameter {
  readonly name: string;
  readonly in: "path" | "query" | "header";
  readonly required: boolean;
  readonly schema: JsonSchema;
}
interface Described {
  readonly parameters?: readonly Parameter[];
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema?: JsonSchema }>> };
  readonly responses: Readonly<Record<string, { readonly content?: Readonly<Record<string, object>> }>>;
}
interface ApiDocument {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Described>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, JsonSchema>> };
}
interface Operation {
  readonly api: string;
  readonly method: string;
  readonly path: string;
  readonly described: Described;
  readonly values: SchemaValues;
}
interface Sent {
  readonly operation: Operation;
  readonly path: string;
  readonly headers: Record<string, string>;
  readonly body: string | undefined;
  /** Undefined: nothing that the document can judge. */
  readonly value: unknown;
}

export interface ApiFuzzerOptions {
  readonly url: string;
  /** By the name of the API. */
  readonly documents: Readonly<Record<string, unknown>>;
  readonly random: () => number;
  /** `Authorization` of those who ask, more often the earlier ones; asked for each request. */
  readonly callers: readonly (() => string | undefined)[];
  /** Whether an answer of 5xx is an honest one here. */
  readonly mayFail: (body: string) => boolean;
  /** Operations that are not called, such as those that would wait. */
  readonly leaveOut: (method: string, path: string) => boolean;
}

/** What HTTP says whatever the operation is. */
const commonErrors = new Set([405, 412, 413, 415, 426, 429]);
/** Parameters that would hold the answer back. */
const patient = new Set(["watch", "wait"]);
const remembered = 40;
const spoiltShare = 0.35;
const oddHeaderShare = 0.1;

export class ApiFuzzer {
  readonly #options: ApiFuzzerOptions;
  readonly #operations: readonly Operation[];
  readonly #known = new Map<string, unknown[]>();
  readonly #schemas = new Map<string, z.ZodType | undefined>();
  /** Each once, however often it came up. */
  readonly failures = new Map<string, string>();
  /** Operations that have answered with a success, and all that there are. */
  readonly succeeded = new Set<string>();
  readonly statuses = new Map<number, number>();

  constructor(options: ApiFuzzerOptions) {
    this.#options = options;
    this.#operations = Object.entries(options.documents).flatMap(([api, document]) => {
      const { paths, components } = document as ApiDocument;
      const values = new SchemaValues({
        random: options.random,
        named: components.schemas,
        recall: (name) => this.recall(name),
      });
      return Object.entries(paths).flatMap(([path, methods]) =>
        Object.entries(methods)
          .filter(([method]) => !options.leaveOut(method.toUpperCase(), path))
          .map(([method, described]) => ({ api, path, described, values, method: method.toUpperCase() })),
      );
    });
  }

  get operations(): number {
    return this.#operations.length;
  }

  /** Those that have never answered with a success. */
  get missed(): string[] {
    return this.#operations.map(nameOf).filter((name) => !this.succeeded.has(name));
  }

  /** Something that answers have had under this name, or that goes by the name of it. */
  recall(name: string): unknown {
    const known = this.#known.get(name) ?? this.#known.get(name.replace(/_?id$/, ""));
    return known?.[Math.floor(this.#options.random() * known.length)];
  }

  /** Something that no answer tells, to be used under this name. */
  know(name: string, value: unknown): void {
    this.#remember(name, value);
  }

  /** Sends one request and judges what comes back. */
  async step(): Promise<void> {
    const operation = this.#operations[Math.floor(this.#options.random() * this.#operations.length)];
    if (!operation) throw new Error("the documents have no operations");
    const sent = this.#request(operation);
    const { random, callers, url } = this.#options;
    const authorization = callers[Math.floor(random() ** 3 * callers.length)]?.();
    const response = await fetch(url + sent.path, {
      method: operation.method,
      headers: { ...sent.headers, ...(authorization !== undefined && { authorization }) },
      ...(sent.body !== undefined && { body: sent.body }),
    });
    const text = await response.text();
    const { status } = response;
    this.statuses.set(status, (this.statuses.get(status) ?? 0) + 1);
    if (status < 300) this.succeeded.add(nameOf(operation));
    const wrong = this.#judge(sent, status, response.headers.get("content-type") ?? "", text);
    if (wrong !== undefined) this.#fail(sent, status, text, wrong);
  }

  #request(operation: Operation): Sent {
    const { described, values } = operation;
    const { random } = this.#options;
    const spoilt = values.chance(spoiltShare);
    const parameters = described.parameters ?? [];
    let path = operation.path.replace(/\{(\w+)\}/g, (_, name: string) =>
      encode(spoilt && values.chance(0.2) ? values.nastyText() || "%" : this.#pathValue(operation, name)),
    );
    const query = parameters
      .filter(
        (each) => each.in === "query" && !patient.has(each.name) && (each.required || values.chance(0.3)),
      )
      .map(({ name, schema }) => {
        const value = spoilt && values.chance(0.3) ? values.nasty() : values.valid(schema, name);
        return `${encode(name.replace("{key}", "tier"))}=${encode(String(value))}`;
      });
    if (spoilt && values.chance(0.1)) query.push(`${encode(values.nastyText())}=1`);
    if (query.length > 0) path += `?${query.join("&")}`;
    const headers: Record<string, string> = {};
    if (values.chance(oddHeaderShare)) headers["accept"] = "application/problem+json";
    for (const each of parameters.filter((one) => one.in === "header" && values.chance(oddHeaderShare)))
      headers[each.name] = values.chance(0.5) ? `"${String(Math.floor(random() * 3))}"` : "key-1";
    const [type, content] = Object.entries(described.requestBody?.content ?? {})[0] ?? [];
    if (type === undefined) return { operation, path, headers, body: undefined, value: undefined };
    headers["content-type"] = type;
    if (!content?.schema) return { operation, path, headers, body: "content", value: undefined };
    const good = values.valid(content.schema, "");
    const value = spoilt ? values.spoil(good) : good;
    const json = JSON.stringify(value);
    if (spoilt && values.chance(0.05))
      return { operation, path, headers, body: json.slice(1), value: undefined };
    // As it arrives: what is wrong with a prototype stays here.
    return { operation, path, headers, body: json, value: JSON.parse(json) as unknown };
  }

  /** `{id}` below `images` is an image's, and so is `{image_id}`, however answers call it. */
  #pathValue({ path, values }: Operation, name: string): string {
    const collection = path.split("/").at(path.split("/").indexOf(`{${name}}`) - 1) ?? "";
    const own = `${singular(collection)}_id`;
    const known = name === "id" ? this.recall(own) : (this.recall(name) ?? this.recall(own));
    return String(known ?? values.valid({ type: "string", minLength: 1 }, "")) || "none";
  }

  #judge(sent: Sent, status: number, contentType: string, text: string): string | undefined {
    const { operation, value } = sent;
    const { api, method, path, described } = operation;
    if (status >= 500 && !this.#options.mayFail(text)) return "a server error";
    const promised = described.responses[String(status)];
    if (!promised && !commonErrors.has(status)) return "a status that the document does not know";
    const json = text !== "" && contentType.includes("json") ? (JSON.parse(text) as unknown) : undefined;
    if (status >= 400) return this.#judgeError(sent, contentType, json);
    if (status < 300 && value !== undefined) {
      const takes = this.#schema(`${method} ${path}`, () =>
        bodySchema(this.#options.documents[api], method, path),
      );
      const refused = takes?.safeParse(value).error;
      if (refused) return `the document refuses this body: ${refused.message.slice(0, 300)}`;
    }
    if (!promised?.content) return text === "" ? undefined : "a body that the document does not know";
    if (json === undefined) return contentType.startsWith("text/") ? undefined : "no JSON";
    const key = `${method} ${path} ${String(status)}`;
    const schema = this.#schema(key, () => answerSchema(this.#options.documents[api], method, path, status));
    const problem = schema?.safeParse(json).error;
    if (problem) return `another form than the document says: ${problem.message.slice(0, 500)}`;
    this.#learn(path, json);
    return undefined;
  }

  #judgeError({ operation: { api }, headers }: Sent, contentType: string, json: unknown): string | undefined {
    const problem = headers["accept"] === "application/problem+json";
    if (problem && !contentType.startsWith("application/problem+json")) return "no problem details";
    const name = problem ? "skerry" : api;
    const schema = this.#schema(`error ${name}`, () => errorSchemaOf(this.#options.documents[name]));
    const wrong = schema?.safeParse(json).error;
    return wrong && `not the dialect's error: ${wrong.message.slice(0, 300)}`;
  }

  #schema(key: string, make: () => z.ZodType | undefined): z.ZodType | undefined {
    if (!this.#schemas.has(key)) this.#schemas.set(key, make());
    return this.#schemas.get(key);
  }

  #learn(path: string, answer: unknown): void {
    const last = path.split("/").filter((segment) => segment !== "" && !segment.startsWith("{"));
    const kind = singular(last.at(-1) ?? "");
    const visit = (value: unknown, depth: number): void => {
      if (typeof value !== "object" || value === null || depth === 0) return;
      for (const [name, member] of Object.entries(value)) {
        if (typeof member === "string" && member.length < 200) {
          if (name === "id") this.#remember(`${kind}_id`, member);
          if (name === "id" || name === "name") this.#remember(kind, member);
          if (name !== "name" && name !== "id") this.#remember(name, member);
        } else visit(member, depth - 1);
      }
    };
    visit(answer, 4);
  }

  #remember(name: string, value: unknown): void {
    const known = this.#known.get(name) ?? [];
    this.#known.set(name, known);
    if (known.includes(value)) return;
    if (known.length < remembered) known.push(value);
    else known[Math.floor(this.#options.random() * remembered)] = value;
  }

  #fail({ operation, path, body }: Sent, status: number, text: string, wrong: string): void {
    const key = `${operation.method} ${operation.path} ${String(status)} ${wrong.slice(0, 60)}`;
    if (this.failures.has(key)) return;
    const request = `${operation.method} ${path} ${body?.slice(0, 600) ?? ""}`;
    this.failures.set(key, `${wrong}\n  ${request}\n  -> ${String(status)} ${text.slice(0, 600)}`);
  }
}

const nameOf = ({ method, path }: Operation) => `${method} ${path}`;
const singular = (plural: string) => plural.replace(/ies$/, "y").replace(/s$/, "");

// Lone surrogates cannot be sent in a URL at all.
const encode = (text: string) => encodeURIComponent(text.replace(/\p{Surrogate}/gu, "?"));
