/** The words that agents and control plane have in common: tokens, identities, faults on the wire, keep-alive. */
import { once } from "node:events";
import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import t from "tap";
import fc from "fast-check";
import { Fault, faultCodes } from "#kernel/fault.ts";
import { abortSession, keepAlive } from "#kernel/keep-alive.ts";
import { peerOf, peerUri, type Peer } from "#kernel/peer.ts";
import { formatEnrolmentToken, parseEnrolmentToken, pinOf } from "#kernel/pin.ts";
import { fromRpcStatus, toRpcStatus } from "#kernel/rpc-status.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { StallingProxy } from "#test/support/stalling-proxy.ts";
import { until } from "#test/support/until.ts";

await t.test("an enrolment token is read as it was written, or not at all", async (t) => {
  const token = { id: "tok-01", secret: "s_-".repeat(10), pin: pinOf(Buffer.from("authority")) };
  const text = formatEnrolmentToken(token);
  t.same(parseEnrolmentToken(`  ${text}\n`), token);
  const wrong = [
    "",
    text.slice(0, -1),
    `${text}A`,
    text.replace(".", ""),
    text.replace("tok", "TÖK"),
    `${text}.x`,
  ];
  for (const broken of wrong)
    t.equal(await reasonOf(() => parseEnrolmentToken(broken)), "TOKEN_MALFORMED", broken);
});

await t.test("a certificate speaks for exactly one peer", async (t) => {
  const read = (subjectAltName: string | undefined) => peerOf({ subjectAltName });
  const host: Peer = { role: "host", name: "host-01" };
  const uri = `URI:${peerUri(host)}`;
  t.same(read(uri), host);
  t.same(read(`DNS:host-01, ${uri}, IP Address:127.0.0.1`), host);
  for (const text of [
    undefined,
    "",
    "DNS:skerry://host/host-01",
    `${uri}, URI:skerry://operator/ann`,
    "URI:skerry://root/x",
    "URI:skerry://host/",
    "URI:skerry://host/a/b",
    "URI:https://host/a",
  ]) {
    t.equal(read(text), undefined, String(text));
  }
});

await t.test("a fault arrives as it was thrown", async (t) => {
  const property = fc.property(
    fc.constantFrom(...faultCodes),
    fc.string({ unit: "binary" }),
    fc.dictionary(fc.string(), fc.oneof(fc.string({ unit: "binary" }), fc.integer(), fc.constant(null))),
    (code, message, detail) => {
      const sent = new Fault(code, message, { reason: "SOME_REASON", detail });
      const { metadata, ...status } = toRpcStatus(sent);
      for (const value of Object.values(metadata)) if (!/^[ -~]*$/.test(value)) return false;
      const headers = new Headers(metadata);
      const { cause, ...got } = fromRpcStatus({ ...status, metadata: headers }, "CUT_OFF", undefined);
      const same =
        JSON.stringify(got.detail) === JSON.stringify(sent.detail) && got.retryable === sent.retryable;
      return same && got.code === code && got.reason === sent.reason && cause === undefined;
    },
  );
  t.doesNotThrow(() => fc.assert(property));
});

await t.test("what carries no reason is the transport's word", (t) => {
  const read = (code: number, headers: Record<string, string> = {}) => {
    const { code: fault, reason } = fromRpcStatus(
      { code, message: "m", metadata: new Headers(headers) },
      "CUT_OFF",
      0,
    );
    return `${fault} ${reason}`;
  };
  for (const code of [1, 2, 10, 13, 14]) t.equal(read(code), "unavailable CUT_OFF", String(code));
  t.equal(read(4), "unavailable TIMEOUT");
  t.equal(read(3), "invalid INVALID");
  t.equal(read(8), "exhausted EXHAUSTED");
  t.equal(read(12), "internal INTERNAL", "a method that the peer does not know");
  t.equal(read(10, { "skerry-reason": "FENCE_STALE", "skerry-detail": "{cut" }), "stale FENCE_STALE");
  t.end();
});

await t.test("a session is ended when its peer falls silent, and its calls with it", async (t) => {
  let pings = 0;
  const server = http2.createServer(() => undefined); // never answers
  server.on("session", (accepted) => accepted.on("ping", () => pings++));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  await using proxy = await StallingProxy.start({ port });
  const session = http2.connect(`http://127.0.0.1:${proxy.port}`);
  session.on("error", () => undefined);
  const stream = session.request({ ":path": "/" });
  const failure = once(stream, "error", { signal: AbortSignal.timeout(60_000) }) as Promise<[Error]>;
  await once(session, "remoteSettings");
  keepAlive(session, 200);
  await until(() => pings >= 5);
  t.notOk(session.destroyed, "a quiet peer that answers stays");
  proxy.stall();
  t.match((await failure)[0].message, "nothing was received for 200 ms");
  server.close();
});

await t.test("ending a session fails the calls under way", async (t) => {
  const server = http2.createServer(() => undefined); // never answers
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const session = http2.connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  session.on("error", () => undefined);
  const stream = session.request({ ":path": "/" });
  const failure = once(stream, "error") as Promise<[Error]>;
  await once(session, "remoteSettings");
  abortSession(session, "no more");
  t.match((await failure)[0].message, "no more");
  abortSession(session, "twice is harmless");
  server.close();
});
