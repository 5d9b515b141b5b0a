/** Agents and gateway for real on loopback: joining, the two-way session, and all the ways it can break. */
import { EventEmitter, once } from "node:events";
import { stat } from "node:fs/promises";
import http2, { type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";
import tls from "node:tls";
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { MachineSpecSchema } from "#gen/skerry/agent/v1/machine_pb.js";
import { createControlClient, type ControlClient } from "#agent/control/control-client.ts";
import { agentProtocol, dialGateway, type Trust } from "#agent/control/dial.ts";
import { Identity } from "#agent/control/identity.ts";
import { openControl } from "#agent/control/link.ts";
import { createAgentPort } from "#cp/agents/connect-client.ts";
import { createCertificateRequest, newPrivateKey } from "#kernel/certificate-request.ts";
import { Fault, isFault } from "#kernel/fault.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { fileBytes, fileSha256, ProbeServices, TransportWorld } from "#test/support/transport-world.ts";
import { StallingProxy } from "#test/support/stalling-proxy.ts";
import { until } from "#test/support/until.ts";

const signal = AbortSignal.timeout(120_000);
const ensure = (id: string) => ({
  id,
  fence: { epoch: 1n, generation: 2n },
  spec: create(MachineSpecSchema, { name: id }),
  waitMs: 1000,
});

await t.test("a host joins and is called both ways", async (t) => {
  await using world = await TransportWorld.start();
  const services = new ProbeServices();
  const changes: string[] = [];
  world.connections.onChange((hostId, connected) => changes.push(`${hostId} ${connected}`));
  const identity = await world.join("a");
  t.equal(identity.hostId, "host-a");
  const { session, stop } = world.connect(identity, { services });
  await until(() => session.state.status === "connected");
  await until(() => world.agents.connected().length === 1);

  const machine = await world.agents.ensureMachine("host-a", ensure("vm-1"), signal);
  t.match(machine, { id: "vm-1", fence: { epoch: 1n, generation: 2n } });
  t.equal((await world.agents.hostMetrics("host-a", signal)).cpuUsage, 0.5);
  t.equal(await world.agents.removeMachine("host-a", { ...ensure("vm-1") }, signal), true);
  const log = await world.agents.readConsoleLog(
    "host-a",
    { machineId: "vm-1", offset: 0n, limit: 0 },
    signal,
  );
  t.equal(Buffer.from(log.output).toString(), "vm-1");

  const refusal: unknown = await world.agents
    .ensureMachine("host-a", ensure("vm-full"), signal)
    .catch((error: unknown) => error);
  t.ok(isFault(refusal, "exhausted"));
  t.match(refusal, { reason: "HOST_FULL", message: "no röom", detail: { größe: "1 €" } });
  t.equal(await reasonOf(world.agents.hostMetrics("host-b", signal)), "HOST_NOT_CONNECTED");
  t.equal(await reasonOf(world.agents.hostMetrics("host-a", AbortSignal.abort())), "CANCELLED");

  async function* typed() {
    yield Buffer.from("ls");
  }
  const seen: string[] = [];
  const console = world.agents.attachConsole("host-a", { machineId: "vm-1", offset: -1n }, typed(), signal);
  for await (const { output } of console) seen.push(Buffer.from(output).toString());
  t.same(seen, ["vm-1", "ls"]);

  const { nextReportMs } = await session.report({ sessionId: "s", full: true }, signal);
  t.equal(nextReportMs, 5000);
  t.match(world.reports, [{ hostId: "host-a", report: { sessionId: "s", full: true } }]);
  const pieces: Uint8Array[] = [];
  for await (const piece of session.fetchFile(fileSha256, 1000, signal)) pieces.push(piece);
  t.ok(Buffer.concat(pieces).equals(fileBytes.subarray(1000)));
  const missing = session.fetchFile("0".repeat(64), 0, signal)[Symbol.asyncIterator]().next();
  t.equal(await reasonOf(missing), "FILE_NOT_FOUND");

  await stop();
  t.equal(session.state.status, "stopped");
  t.equal(await reasonOf(session.report({}, signal)), "GATEWAY_NOT_CONNECTED");
  await until(() => world.agents.connected().length === 0);
  t.same(changes, ["host-a true", "host-a false"]);
});

await t.test("a token is good for one host, and for no other cloud", async (t) => {
  await using world = await TransportWorld.start();
  await using impostor = await TransportWorld.start();
  const token = world.token("tok-1");

  t.equal(await reasonOf(world.join("a", { token, address: impostor.address })), "GATEWAY_UNTRUSTED");
  t.same([...world.registry.tokens.values()], [{}], "not used up");

  const identity = await world.join("a", { token });
  t.equal((await stat(world.identityPath("a"))).mode & 0o777, 0o600);
  t.equal((await world.join("a", { token })).hostId, identity.hostId, "its answer was lost: it asks again");
  t.equal(await reasonOf(world.join("b", { token })), "TOKEN_USED");
  t.equal(await reasonOf(world.join("b", { token: token.slice(0, -1) })), "TOKEN_MALFORMED");
  t.equal(await reasonOf(world.join("b", { address: "127.0.0.1:1" })), "GATEWAY_UNREACHABLE");
});

await t.test("a token is told to nobody who only shows the right authority", async (t) => {
  await using world = await TransportWorld.start();
  await using impostor = await TransportWorld.start();
  const { certificatePem, privatePem } = await impostor.authority.issueGateway(["127.0.0.1"], 60_000);
  const received: Buffer[] = [];
  // It adds the real cloud's public certificate to its own chain; and a host plays gateway.
  const stolen = { key: privatePem, cert: certificatePem + world.authority.certificatePem };
  const host = (await world.join("h")).credentials;
  for (const credentials of [stolen, host]) {
    await using server = await serveTls(credentials, (data) => received.push(data));
    t.equal(await reasonOf(world.join("a", { address: server.address })), "GATEWAY_UNTRUSTED");
  }
  t.same(received, []);
});

await t.test("an expired certificate is good for its own renewal only", async (t) => {
  let clock = () => Date.now();
  await using world = await TransportWorld.start({ now: () => clock() });
  const longAgo = () => Date.now() - 40 * 86_400_000;
  clock = longAgo;
  for (const name of ["a", "slow", "gone"]) await world.join(name);
  clock = () => Date.now();
  const identity = await Identity.open(world.identityPath("a"));
  t.equal(identity.expired, true);
  t.equal(await reasonOf(callControl(world, identity.credentials, fetchFile)), "CERTIFICATE_EXPIRED");

  const before = identity.credentials.key;
  const { session } = world.connect(identity);
  await until(() => session.state.status === "connected");
  t.equal(identity.expired, false);
  t.not(identity.credentials.key, before, "with a new key");
  await session.report({}, signal);
  t.equal((await Identity.open(world.identityPath("a"))).expired, false, "and it is on disk");

  // This one's clock is behind: it learns from the gateway that its time is over.
  const slow = await Identity.open(world.identityPath("slow"), longAgo);
  const faults: string[] = [];
  const lagging = world.connect(slow);
  lagging.session.onState((state) => state.status === "waiting" && faults.push(state.fault.reason));
  await until(() => lagging.session.state.status === "connected" && !slow.expired && faults.length > 0);
  await until(() => world.agents.connected().includes("host-slow"));
  t.match(faults, ["CERTIFICATE_EXPIRED"]);

  world.registry.removed.add("host-gone");
  const gone = world.connect(await Identity.open(world.identityPath("gone")));
  await until(() => gone.session.state.status === "waiting");
  t.match(gone.session.state, { fault: { reason: "HOST_REMOVED" } });
});

await t.test("a certificate is renewed while connected, at a third of its life", async (t) => {
  await using world = await TransportWorld.start();
  await world.join("a");
  const day = 86_400_000;
  const young = await Identity.open(world.identityPath("a"), () => Date.now() + 9 * day);
  t.ok(young.renewalInMs > 0);
  const due = await Identity.open(world.identityPath("a"), () => Date.now() + 14 * day);
  t.equal(due.renewalInMs, 0);
  const before = due.credentials.cert;
  let renewals = 0;
  due.onChange(() => renewals++);
  const { session } = world.connect(due);
  await until(() => renewals === 1);
  t.not(due.credentials.cert, before);
  await session.report({}, signal);
  t.equal(session.state.status, "connected", "the connection stays");
});

await t.test("who may call what", async (t) => {
  await using world = await TransportWorld.start();
  await using other = await TransportWorld.start();
  const { ca, ...host } = (await world.join("a")).credentials;
  const key = newPrivateKey();
  const keyText = key.export({ type: "pkcs8", format: "pem" }).toString();
  const operator = {
    key: keyText,
    cert: await world.authority.issueOperator("ann", createCertificateRequest(key)),
  };
  const stranger = { ...(await other.join("a")).credentials, ca };
  const fetch = (trust: Trust) => reasonOf(callControl(world, trust, fetchFile));
  const renew = (trust: Trust) =>
    reasonOf(callControl(world, trust, (c) => c.renew(createCertificateRequest(key), signal)));

  t.equal(await fetch({ ca, ...host }), undefined);
  t.equal(await fetch({ ca }), "CERTIFICATE_REQUIRED");
  t.equal(await fetch(stranger), "CERTIFICATE_REQUIRED");
  t.equal(await fetch({ ca, ...operator }), "NOT_A_HOST");
  t.equal(await renew({ ca }), "CERTIFICATE_REQUIRED");
  const flood = { token: "x".repeat(1_000_000) };
  t.equal(await reasonOf(callControl(world, { ca }, (c) => c.enrol(flood, signal))), "EXHAUSTED");
  t.equal(await renew({ ca, ...operator }), "NOT_A_HOST");
  world.registry.removed.add("host-a");
  t.equal(await fetch({ ca, ...host }), "HOST_REMOVED");
  t.equal(await renew({ ca, ...host }), "HOST_REMOVED");
});

await t.test("reports are answered one by one, and refused with the reason", async (t) => {
  await using world = await TransportWorld.start();
  const { session } = world.connect(await world.join("a"));
  await until(() => session.state.status === "connected");
  world.sink.ready = once(world.sink.rung, "now");
  const first = session.report({ sessionId: "first" }, signal);
  const hurry = new AbortController();
  const hasty = session.report({ sessionId: "hasty" }, hurry.signal);
  const refused = session.report({ sessionId: "refused" }, signal);
  hurry.abort(new Fault("unavailable", "it took too long", { reason: "TIMEOUT" }));
  t.equal(await reasonOf(hasty), "TIMEOUT", "it has not even gone out");
  world.sink.rung.emit("now");
  t.equal((await first).nextReportMs, 5000);
  t.equal(await reasonOf(refused), "REFUSED");
  t.equal((await session.report({ sessionId: "last" }, signal)).nextReportMs, 5000);
  t.same(
    world.reports.map(({ report }) => report.sessionId),
    ["first", "refused", "last"],
  );
  t.equal(session.state.status, "connected");
});

await t.test("an agent that does not report as it should is hung up on", async (t) => {
  await using world = await TransportWorld.start();
  const { credentials } = await world.join("a");
  const full = Buffer.from([0, 0, 0, 0, 0]);
  const wrong: ((stream: ServerHttp2Stream) => void)[] = [
    (stream) => stream.respond({ ":status": 404 }, { endStream: true }),
    (stream) => answer(stream, Buffer.from([1, 0, 0, 0, 0])),
    (stream) => answer(stream, Buffer.from([0, 255, 255, 255, 255])),
    (stream) => answer(stream, Buffer.concat([full, full])),
  ];
  for (const behave of wrong) {
    const socket = await dialGateway(world.address, agentProtocol, credentials, signal);
    const server = http2.createServer();
    const asked = once(server, "stream") as Promise<[ServerHttp2Stream]>;
    const opened = once(server, "session") as Promise<[ServerHttp2Session]>;
    server.emit("connection", socket);
    const told = once((await opened)[0], "goaway");
    behave((await asked)[0]);
    t.match(String((await told)[2]), /REPORTS_ENDED/);
    socket.destroy();
    await until(() => world.gateway.openSockets === 0);
  }
  t.same(world.agents.connected(), []);
});

await t.test("a removed host is cut off, told why, and refused from then on", async (t) => {
  await using world = await TransportWorld.start();
  const { session } = world.connect(await world.join("a"));
  await until(() => world.agents.connected().length === 1);
  world.registry.removed.add("host-a");
  world.gateway.disconnect("host-a");
  t.same(world.agents.connected(), []);
  await until(() => session.state.status === "waiting" && session.state.attempt >= 3);
  t.match(session.state, { fault: { code: "denied", reason: "HOST_REMOVED", message: /removed/ } });
  t.same(world.agents.connected(), []);
});

await t.test("a host that hangs up while it is being let in leaves nothing behind", async (t) => {
  await using world = await TransportWorld.start();
  const { credentials } = await world.join("a");
  for (const removed of [false, true]) {
    if (removed) world.registry.removed.add("host-a");
    const answer = new EventEmitter();
    world.registry.ready = once(answer, "now");
    const before = world.registry.asked;
    const socket = await dialGateway(world.address, agentProtocol, credentials, signal);
    await until(() => world.registry.asked > before);
    socket.destroy();
    await until(() => world.gateway.openSockets === 0);
    answer.emit("now");
    await world.registry.ready;
    t.same(world.agents.connected(), []);
  }
  world.registry.removed.clear();
  world.connect(await Identity.open(world.identityPath("a")));
  await until(() => world.agents.connected().length === 1);
});

await t.test("a newer connection of the same host takes over", async (t) => {
  await using world = await TransportWorld.start();
  const [old, young] = [new ProbeServices(), new ProbeServices()];
  const identity = await world.join("a");
  const changes: boolean[] = [];
  world.connections.onChange((_hostId, connected) => changes.push(connected));
  const first = world.connect(identity, { services: old });
  const reasons: string[] = [];
  first.session.onState((state) => {
    if (state.status !== "waiting") return;
    reasons.push(state.fault.reason);
    void first.stop();
  });
  await until(() => world.agents.connected().length === 1);
  const stuck = reasonOf(world.agents.removeMachine("host-a", ensure("vm-stuck"), signal));
  await until(() => old.calls.includes("vm-stuck"));

  world.connect(identity, { services: young });
  await until(() => reasons.length > 0);
  t.equal(await stuck, "HOST_NOT_CONNECTED");
  await world.agents.ensureMachine("host-a", ensure("vm-1"), signal);
  t.same(young.calls, ["vm-1"]);
  t.same(reasons, ["CONNECTION_REPLACED"]);
  t.same(changes, [true, true], "it was never gone");
});

await t.test("a line that goes silent is noticed at both ends and replaced", async (t) => {
  await using world = await TransportWorld.start({ keepAliveMs: 400 });
  await using proxy = await StallingProxy.start({ port: world.gateway.port });
  const services = new ProbeServices();
  const { session } = world.connect(await world.join("a"), {
    services,
    gateways: [`127.0.0.1:${proxy.port}`],
  });
  await until(() => world.agents.connected().length === 1);
  const stuck = reasonOf(world.agents.removeMachine("host-a", ensure("vm-stuck"), signal));
  await until(() => services.calls.includes("vm-stuck"));
  proxy.stall();
  await until(() => world.agents.connected().length === 0 && session.state.status !== "connected");
  t.equal(await stuck, "HOST_NOT_CONNECTED", "nothing is known of its outcome");
  proxy.resume();
  await until(() => world.agents.connected().length === 1 && session.state.status === "connected");
  await world.agents.ensureMachine("host-a", ensure("vm-1"), signal);
});

await t.test("a quiet line stays up", async (t) => {
  await using world = await TransportWorld.start({ keepAliveMs: 200 });
  const { session } = world.connect(await world.join("a"));
  await until(() => session.state.status === "connected");
  const { since } = session.state as { since: Date };
  const quietMs = 1000;
  await until(() => Date.now() - since.getTime() > quietMs);
  t.match(session.state, { status: "connected", since });
  t.same(world.agents.connected(), ["host-a"]);
});

await t.test("a gateway that dies is found again, or another one", async (t) => {
  await using world = await TransportWorld.start();
  const services = new ProbeServices();
  const identity = await world.join("a");
  const { session } = world.connect(identity, { services, gateways: [world.address, "127.0.0.1:1"] });
  await until(() => world.agents.connected().length === 1);
  const stuck = reasonOf(world.agents.removeMachine("host-a", ensure("vm-stuck"), signal));
  await until(() => services.calls.includes("vm-stuck"));
  const { port } = world.gateway;
  const reasons = new Set<string>();
  session.onState((state) => state.status === "waiting" && reasons.add(state.fault.reason));
  await world.gateway[Symbol.asyncDispose]();
  t.equal(await stuck, "HOST_NOT_CONNECTED");
  await until(() => reasons.has("CONNECTION_LOST") && reasons.has("GATEWAY_UNREACHABLE"));
  t.equal(await reasonOf(session.report({}, signal)), "GATEWAY_NOT_CONNECTED");
  await world.startGateway(port);
  await until(() => world.agents.connected().length === 1 && session.state.status === "connected");
  await session.report({}, signal);
});

await t.test("an agent that does not answer costs a call its deadline, not the connection", async (t) => {
  await using world = await TransportWorld.start();
  world.connect(await world.join("a"));
  await until(() => world.agents.connected().length === 1);
  const hasty = createAgentPort({ connections: world.connections, authority: world.authority, marginMs: 50 });
  const stuck = { ...ensure("vm-stuck"), waitMs: 50 };
  t.equal(await reasonOf(hasty.removeMachine("host-a", stuck, signal)), "TIMEOUT");
  await world.agents.ensureMachine("host-a", ensure("vm-1"), signal);
});

function answer(stream: ServerHttp2Stream, message: Buffer): void {
  stream.on("error", () => undefined); // it is reset, which is what is wanted
  stream.respond({ ":status": 200 });
  stream.write(message);
}

function fetchFile(client: ControlClient): Promise<unknown> {
  return client.fetchFile(fileSha256, 0, signal)[Symbol.asyncIterator]().next();
}

async function callControl(
  world: TransportWorld,
  trust: Trust,
  call: (client: ControlClient) => Promise<unknown>,
): Promise<void> {
  const session = await openControl({ address: world.address, trust, keepAliveMs: 5000 }, signal);
  try {
    await call(createControlClient(session));
  } finally {
    session.destroy();
  }
}

async function serveTls(
  credentials: { key: string; cert: string },
  onData: (data: Buffer) => void,
): Promise<AsyncDisposable & { address: string }> {
  const { key, cert } = credentials;
  const server = tls.createServer({ key, cert, ALPNProtocols: ["h2"] }, (socket) => {
    socket.on("data", onData);
    socket.on("error", () => socket.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const close = () => new Promise<void>((resolve) => server.close(() => resolve()));
  return { address: `127.0.0.1:${port}`, [Symbol.asyncDispose]: close };
}
