/** Channels of a move through the gateway: bytes as they are, only between the two hosts of a move. */
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import http2, { type ClientHttp2Stream, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import { text } from "node:stream/consumers";
import { finished } from "node:stream/promises";
import t from "tap";
import type { Identity } from "#agent/control/identity.ts";
import { reasonKey } from "#kernel/rpc-status.ts";
import { ProbeServices, TransportWorld } from "#test/support/transport-world.ts";
import { until } from "#test/support/until.ts";

const world = await TransportWorld.start();
t.teardown(() => world[Symbol.asyncDispose]());
const source = await world.join("source");
const target = await world.join("target");
const stranger = await world.join("stranger");

type Pull = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders, peer: string) => void;
let serve: Pull = (stream) => stream.close();
const pulls: string[] = [];
const services = Object.assign(new ProbeServices(), {
  pull: ((stream, headers, peer) => {
    pulls.push(peer);
    stream.on("error", () => undefined);
    serve(stream, headers, peer);
  }) satisfies Pull,
});
world.connect(source, { services });
await until(() => world.connections.connected().includes("host-source"));
world.moves.add("host-source -> host-target");

interface Call {
  readonly stream: ClientHttp2Stream;
  readonly headers: Promise<IncomingHttpHeaders>;
  readonly trailers: Promise<IncomingHttpHeaders>;
}

function call(from: Identity | undefined, sourceHost = "host-source"): Call {
  const session = http2.connect(`https://${world.address}`, {
    ...(from?.credentials ?? {}),
    rejectUnauthorized: false,
    settings: { initialWindowSize: 4 * 1024 * 1024 },
  });
  session.on("error", () => undefined);
  const stream = session.request({
    ":method": "POST",
    ":path": "/skerry.agent.v1.MigrationService/Pull",
    "content-type": "application/grpc+proto",
    te: "trailers",
    "skerry-source-host": sourceHost,
    "skerry-peer-host": "host-forged",
  });
  stream.on("error", () => undefined);
  stream.once("close", () => session.close());
  const headersOf = async (event: string) => ((await once(stream, event)) as [IncomingHttpHeaders])[0];
  const trailers = headersOf("trailers");
  trailers.catch(() => undefined);
  return { stream, headers: headersOf("response"), trailers };
}

t.test("bytes pass in both directions, whole and in order, with the status at the end", async (t) => {
  const down = randomBytes(24 * 1024 * 1024);
  const up = randomBytes(6 * 1024 * 1024);
  const received = createHash("sha256");
  serve = (stream) => {
    stream.respond({ ":status": 200, "content-type": "application/grpc+proto" }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
    stream.on("data", (chunk: Buffer) => received.update(chunk));
    stream.end(down);
  };
  const { stream, headers, trailers } = call(target);
  stream.end(up);
  const sent = createHash("sha256");
  stream.on("data", (chunk: Buffer) => sent.update(chunk));
  t.match(await headers, { ":status": 200, "content-type": "application/grpc+proto" });
  t.match(await trailers, { "grpc-status": "0" });
  await finished(stream);
  t.equal(sent.digest("hex"), createHash("sha256").update(down).digest("hex"));
  t.equal(received.digest("hex"), createHash("sha256").update(up).digest("hex"));
  t.strictSame(pulls, ["host-target"], "the source is told who pulls, as the certificate says");
});

t.test("a reader that stops stops the sender, and holds little meanwhile", async (t) => {
  let written = 0;
  const total = 256 * 1024 * 1024;
  const chunk = Buffer.alloc(1024 * 1024);
  serve = (stream) => {
    stream.respond({ ":status": 200 });
    const write = () => {
      while (written < total && !stream.destroyed) {
        written += chunk.length;
        if (!stream.write(chunk)) return void stream.once("drain", write);
      }
    };
    write();
  };
  const { stream, headers } = call(target);
  await headers;
  let before = -1;
  await until(async () => {
    const still = written === before;
    before = written;
    await new Promise((resolve) => setTimeout(resolve, 100));
    return still && written === before;
  });
  t.ok(written < 48 * 1024 * 1024, `${String(written)} bytes were taken of a stream that nobody reads`);
  stream.close();
});

t.test("what is cut at the source is cut at the target, and is no end in order", async (t) => {
  serve = (stream) => {
    stream.respond({ ":status": 200 });
    stream.write("half");
    stream.once("data", () => stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR));
  };
  const { stream, headers } = call(target);
  await headers;
  stream.write("more");
  await t.rejects(text(stream));
  t.not(stream.rstCode, http2.constants.NGHTTP2_NO_ERROR);
});

t.test("a target that hangs up frees the source", async (t) => {
  let ended: Promise<unknown> | undefined;
  serve = (stream) => {
    ended = once(stream, "close");
    stream.respond({ ":status": 200 });
  };
  const { stream, headers } = call(target);
  await headers;
  stream.close(http2.constants.NGHTTP2_CANCEL);
  await ended;
  t.pass("its stream was closed");
});

t.test("only the two hosts of a move", async (t) => {
  const refusals: [string, Call, string, string][] = [
    ["a host that has no part in it", call(stranger), "7", "NO_SUCH_MOVE"],
    ["the other way round", call(source, "host-target"), "7", "NO_SUCH_MOVE"],
    ["no source named", call(target, ""), "7", "NO_SUCH_MOVE"],
    ["nobody", call(undefined), "16", "CERTIFICATE_REQUIRED"],
  ];
  for (const [what, { headers }, status, reason] of refusals) {
    t.match(await headers, { "grpc-status": status, [reasonKey]: reason }, what);
  }
  world.moves.add("host-away -> host-target");
  const away = call(target, "host-away");
  t.match(await away.headers, { "grpc-status": "14", [reasonKey]: "HOST_NOT_CONNECTED" });
});
