/** The few calls of the native API that the launcher makes, as any other client would. */
import { z } from "zod";
import { Fault } from "#kernel/fault.ts";
import type { Credentials } from "./credentials.ts";

const callLimitMs = 15_000;
const login = z.object({ access_token: z.string() });
const apiKey = z.object({ api_key: z.string() });
const enrolmentToken = z.object({ token: z.string() });
const hosts = z.object({ items: z.array(z.object({ name: z.string(), phase: z.string() })) });

export type HostState = z.infer<typeof hosts>["items"][number];

export class NativeApi {
  readonly #url: string;
  #authorization: string;

  constructor(url: string, apiKeyText: string) {
    this.#url = url;
    this.#authorization = `Token ${apiKeyText}`;
  }

  /** A key that works: the one in `credentials`, or a new one when there is none or it is not known any more. */
  async ensureApiKey(credentials: Credentials, signal: AbortSignal): Promise<string> {
    if (credentials.api_key !== "" && (await this.#isKnown(signal))) return credentials.api_key;
    const { username, password } = credentials;
    const session = await this.#call("POST", "/v1/auth/login", login, signal, { username, password });
    this.#authorization = `Bearer ${session.access_token}`;
    const made = await this.#call("POST", "/skerry/v1/api-keys", apiKey, signal, { name: "local-cloud" });
    this.#authorization = `Token ${made.api_key}`;
    return made.api_key;
  }

  /** A token with which the host of this name, and no other, may join once. */
  async createEnrolmentToken(hostName: string, signal: AbortSignal): Promise<string> {
    const body = { name: `local-${hostName}`, spec: { host_name: hostName } };
    return (await this.#call("POST", "/skerry/v1/enrolment-tokens", enrolmentToken, signal, body)).token;
  }

  async listHosts(signal: AbortSignal): Promise<HostState[]> {
    return (await this.#call("GET", "/skerry/v1/hosts?limit=1000", hosts, signal)).items;
  }

  async #isKnown(signal: AbortSignal): Promise<boolean> {
    const response = await this.#fetch("GET", "/skerry/v1/whoami", signal);
    await response.arrayBuffer();
    return response.status !== 401;
  }

  async #call<T>(
    method: string,
    path: string,
    schema: z.ZodType<T>,
    signal: AbortSignal,
    body?: unknown,
  ): Promise<T> {
    const response = await this.#fetch(method, path, signal, body);
    const text = await response.text();
    if (response.ok) return schema.parse(JSON.parse(text));
    const code = response.status === 401 ? "unauthenticated" : "unavailable";
    throw new Fault(code, `the control plane answered ${String(response.status)} to ${method} ${path}`, {
      reason: "CONTROL_PLANE_REFUSED",
      detail: { answer: text.slice(0, 2_000) },
    });
  }

  async #fetch(method: string, path: string, signal: AbortSignal, body?: unknown): Promise<Response> {
    const headers = { authorization: this.#authorization, "content-type": "application/json" };
    const limit = AbortSignal.any([signal, AbortSignal.timeout(callLimitMs)]);
    const init = { method, headers, signal: limit, ...(body ? { body: JSON.stringify(body) } : {}) };
    try {
      return await fetch(new URL(path, this.#url), init);
    } catch (cause) {
      throw new Fault("unavailable", "the control plane cannot be reached", {
        reason: "CONTROL_PLANE_UNREACHABLE",
        cause,
      });
    }
  }
}
