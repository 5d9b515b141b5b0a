/**
 * A port on this machine to which an identity provider sends the browser back (RFC 8252, section 7.3). Anybody on this
 * machine may knock there: only who brings the login's own state is listened to, and nothing is told to the others.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Fault } from "#kernel/fault.ts";
import { unlessAborted } from "#kernel/stall.ts";

const path = "/callback";
const headers = {
  "Content-Type": "text/plain; charset=utf-8",
  "Content-Security-Policy": "default-src 'none'",
  "Cache-Control": "no-store",
  "Referrer-Policy": "no-referrer",
  Connection: "close",
};

export class BrowserReturn implements AsyncDisposable {
  /** Where the browser is to be sent. */
  readonly url: string;
  readonly #server: ReturnType<typeof createServer>;

  private constructor(server: ReturnType<typeof createServer>) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}${path}`;
  }

  /** @param port 0: any that is free */
  static open(port: number): Promise<BrowserReturn> {
    const server = createServer();
    return new Promise((resolve, reject) => {
      server.once("error", (cause: NodeJS.ErrnoException) =>
        reject(
          new Fault("unavailable", `cannot listen on port ${port}: ${cause.code ?? cause.message}`, {
            reason: "CANNOT_LISTEN",
            retryable: false,
            cause,
          }),
        ),
      );
      server.listen(port, "127.0.0.1", () => resolve(new BrowserReturn(server)));
    });
  }

  /** The code that the browser comes back with; throws `denied` OIDC_DENIED when the provider lets nobody in. */
  code(state: string, signal: AbortSignal): Promise<string> {
    const came = new Promise<string>((resolve, reject) => {
      this.#server.on("request", (request: IncomingMessage, response: ServerResponse) => {
        const target = request.url ?? "";
        const { pathname, searchParams: told } = new URL(
          URL.canParse(target, this.url) ? target : "/",
          this.url,
        );
        const [code, error] = [told.get("code"), told.get("error")];
        const known = request.method === "GET" && pathname === path && told.get("state") === state;
        if (!known || (code === null && error === null)) {
          response.writeHead(known ? 400 : 404, headers).end("This is not what was waited for.\n");
          return;
        }
        const text =
          code === null ? "You were not let in.\n" : "Go back to the terminal: it goes on there.\n";
        response
          .writeHead(200, headers)
          .end(text, () => (code === null ? reject(denied(error)) : resolve(code)));
      });
    });
    return unlessAborted(came, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise((resolve) => {
      this.#server.close(resolve);
      this.#server.closeAllConnections();
    });
  }
}

const denied = (error: string | null) =>
  new Fault("denied", `the identity provider says ${JSON.stringify(error?.slice(0, 80))}`, {
    reason: "OIDC_DENIED",
  });
