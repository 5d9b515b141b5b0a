/** Channels of a move through the gateway: bytes as they are, only between the two hosts of a move. */
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import http2, { type ClientHttp2Stream, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import { text } from "node:stream/consumers";
import { finished } from "node:stream/promises";
import t, { type Test } from "tap";
import type { Identity } from "#agent/control/identity.ts";
import { createCertificateRequest, newPrivateKey } from "#kernel/certificate-request.ts";
import { reasonKey } from "#kernel/rpc-status.ts";
import { ProbeServices, TransportWorld } from "#test/support/transport-world.ts";
import { until } from "#test/support/until.ts";

const world = await TransportWorld.start();
t.teardown(() => world[Symbol.asyncDispose]());
const source = await world.join("source");
const target = await world.join("target");
const stranger = await world.join("stranger");
/** Of the same cloud; this one's host is reached through it only. */
const other = await TransportWorld.start({ beside: world });
t.teardown(() => other[Symbol.asyncDispose]());
const far = await other.join("far");

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
other.connect(far, { services });
await until(() => world.connections.connected().includes("host-source"));
await until(() => other.connections.connected().includes("host-far"));
world.moves.add("host-source -> host-target").add("host-far -> host-target");
world.elsewhere.set("host-far", other.address);

interface Call {
  readonly stream: ClientHttp2Stream;
  readonly headers: Promise<IncomingHttpHeaders>;
  readonly trailers: Promise<IncomingHttpHeaders>;
}

function call(
  from: Pick<Identity, "credentials"> | undefined,
  sourceHost = "host-source",
  { gateway = world.address, peerHost = "host-forged" } = {},
): Call {
  const session = http2.connect(`https://${gateway}`, {
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
    "skerry-peer-host": peerHost,
  });
  stream.on("error", () => undefined);
  stream.once("close", () => session.close());
  const headersOf = async (event: string) => ((await once(stream, event)) as [IncomingHttpHeaders])[0];
  const trailers = headersOf("trailers");
  trailers.catch(() => undefined);
  return { stream, headers: headersOf("response"), trailers };
}

for (const [sourceHost, where, MiB] of [
  ["host-source", "one gateway", 24],
  ["host-far", "two gateways", 8],
] as const) {
  t.test(`bytes pass ${where} in both directions, whole and in order, with the status at the end`, (t) =>
    passesWhole(t, sourceHost, MiB * 1024 * 1024),
  );
}

async function passesWhole(t: Test, sourceHost: string, bytes: number): Promise<void> {
  const down = randomBytes(bytes);
  const up = randomBytes(bytes / 4);
  const received = createHash("sha256");
  serve = (stream) => {
    stream.respond({ ":status": 200, "content-type": "application/grpc+proto" }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
    stream.on("data", (chunk: Buffer) => received.update(chunk));
    stream.end(down);
  };
  const { stream, headers, trailers } = call(target, sourceHost);
  stream.end(up);
  const sent = createHash("sha256");
  stream.on("data", (chunk: Buffer) => sent.update(chunk));
  t.match(await headers, { ":status": 200, "content-type": "application/grpc+proto" });
  t.match(await trailers, { "grpc-status": "0" });
  await finished(stream);
  t.equal(sent.digest("hex"), createHash("sha256").update(down).digest("hex"));
  t.equal(received.digest("hex"), createHash("sha256").update(up).digest("hex"));
  t.strictSame(pulls.splice(0), ["host-target"], "the source is told who pulls, as the certificate says");
}

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

for (const sourceHost of ["host-source", "host-far"]) {
  t.test(`what is cut at ${sourceHost} is cut at the target, and is no end in order`, async (t) => {
    serve = (stream) => {
      stream.respond({ ":status": 200 });
      stream.write("half");
      stream.once("data", () => stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR));
    };
    const { stream, headers } = call(target, sourceHost);
    await headers;
    stream.write("more");
    await t.rejects(text(stream));
    t.not(stream.rstCode, http2.constants.NGHTTP2_NO_ERROR);
  });

  t.test(`a target that hangs up frees ${sourceHost}`, async (t) => {
    let ended: Promise<unknown> | undefined;
    serve = (stream) => {
      ended = once(stream, "close");
      stream.respond({ ":status": 200 });
    };
    const { stream, headers } = call(target, sourceHost);
    await headers;
    stream.close(http2.constants.NGHTTP2_CANCEL);
    await ended;
    t.pass("its stream was closed");
    // What is left are the two connections of its own host: each link was for one call.
    if (sourceHost === "host-far") await until(() => other.gateway.openSockets === 2);
  });
}

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

t.test("only a replica is believed when it says who pulls", async (t) => {
  pulls.length = 0;
  const certified = async (who: "replica" | "operator", lifeMs = 60_000) => {
    const key = newPrivateKey();
    const { certificatePem, privatePem } =
      who === "replica"
        ? await world.authority.issueReplica("replica-2", lifeMs)
        : {
            certificatePem: await world.authority.issueOperator("ann", createCertificateRequest(key)),
            privatePem: key.export({ type: "pkcs8", format: "pem" }).toString(),
          };
    return { credentials: { cert: certificatePem, key: privatePem, ca: world.authority.certificatePem } };
  };
  const pretending = { gateway: other.address, peerHost: "host-target" };
  const refused = async (what: string, from: Parameters<typeof call>[0], reason: string) => {
    t.match(await call(from, "host-far", pretending).headers, { [reasonKey]: reason }, what);
  };
  await refused("a host that pretends to pass on for another", stranger, "NO_SUCH_MOVE");
  await refused("an operator", await certified("operator"), "NOT_A_HOST");
  await refused("a replica of long ago", await certified("replica", -1000), "NOT_A_HOST");
  t.strictSame(pulls, []);

  serve = (stream) => stream.respond({ ":status": 200 });
  const replica = await certified("replica");
  const { stream, headers } = call(replica, "host-far", pretending);
  t.match(await headers, { ":status": 200 });
  t.strictSame(pulls, ["host-target"]);
  stream.close();
  const nobody = call(replica, "host-far", { gateway: other.address, peerHost: "" });
  t.match(await nobody.headers, { [reasonKey]: "NO_SUCH_MOVE" }, "also of it only the hosts of a move");
});

t.test("a call is passed on once, and to a gateway of this cloud only", async (t) => {
  await using foreign = await TransportWorld.start();
  world.moves.add("host-away -> host-target");
  other.elsewhere.set("host-away", world.address);
  for (const [what, gateway] of [
    ["the other does not hold it either", other.address],
    ["its replica is gone", "127.0.0.1:1"],
    ["another cloud's", foreign.address],
  ] as const) {
    world.elsewhere.set("host-away", gateway);
    const { headers } = call(target, "host-away");
    t.match(await headers, { "grpc-status": "14", [reasonKey]: "HOST_NOT_CONNECTED" }, what);
  }
});
