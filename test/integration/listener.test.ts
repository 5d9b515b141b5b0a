/** The agent's own port, tried with clients that are not ours: grpc-js, buf, fetch-like HTTP/1.1. */
import { execFile } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import type { IncomingMessage } from "node:http";
import https from "node:https";
import { join } from "node:path";
import tls from "node:tls";
import { promisify } from "node:util";
import t from "tap";
import { create, fromBinary } from "@bufbuild/protobuf";
import { createClient, createContextValues, createHandlerContext } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import * as grpc from "@grpc/grpc-js";
import { Health, HealthCheckResponse_ServingStatus as ServingStatus } from "#gen/grpc/health/v1/health_pb.js";
import {
  GetHostRequestSchema,
  GetLeaseRequestSchema,
  HostFactsSchema,
  HostLabelsSchema,
  HostService,
} from "#gen/skerry/agent/v1/host_pb.js";
import { ServerReflection } from "#gen/grpc/reflection/v1/reflection_pb.js";
import { ListMachinesResponseSchema, MachineService } from "#gen/skerry/agent/v1/machine_pb.js";
import type { Identity } from "#agent/control/identity.ts";
import { callerKey, type Caller } from "#agent/rpc/caller.ts";
import { hostService } from "#agent/rpc/host-service.ts";
import { Listener } from "#agent/rpc/listener.ts";
import { createCertificateRequest, newPrivateKey } from "#kernel/certificate-request.ts";
import { silentLogger } from "#kernel/log.ts";
import { ProbeServices, TransportWorld } from "#test/support/transport-world.ts";

type Credentials = { key: string; cert: string; ca: string };

const world = await TransportWorld.start();
const services = new ProbeServices();
const identity: Identity = await world.join("a");
const listener = await Listener.listen({
  identity,
  services,
  host: "127.0.0.1",
  port: 0,
  keepAliveMs: 15_000,
  metrics: async () => "skerry_agent_connected 1\n",
  log: silentLogger,
});
t.teardown(async () => {
  await listener[Symbol.asyncDispose]();
  await world[Symbol.asyncDispose]();
});

const { ca } = identity.credentials;
const operator = await operatorCertificate("ann");
const host = (await world.join("b")).credentials;
/** The name that a host's certificate carries. */
const servername = "host-a";
const url = `https://127.0.0.1:${listener.port}`;
const emptyMessage = Buffer.alloc(0);
const listMachines = "/skerry.agent.v1.MachineService/ListMachines";

await t.test("Connect: the certificate says who calls", async (t) => {
  const machines = (credentials: Credentials) =>
    createClient(
      MachineService,
      createConnectTransport({ baseUrl: url, httpVersion: "2", nodeOptions: { ...credentials, servername } }),
    );
  t.match(await machines(operator).listMachines({}), { machines: [{ id: "vm-1", message: "operator" }] });
  t.match(await machines(host).listMachines({}), { machines: [{ message: "host" }] });
  for (const credentials of [operator, host]) {
    await t.rejects(machines(credentials).ensureMachine({ id: "vm-1" }), {
      code: 7,
      rawMessage: /only the control plane/,
    });
  }
  t.same(services.calls, []);
});

await t.test(
  "what a host is, is for operators; of its lease other hosts are told with a ticket",
  async (t) => {
    const labels = create(HostLabelsSchema);
    const { getHost, getLease } = hostService({
      ...{ hostId: () => "host-a", name: "a", labels, facts: create(HostFactsSchema) },
      lease: () => ({ holds: true }),
      admitsTicket: (ticket) => ticket === "good",
      probe: () => Promise.reject(new Error("nobody asked for it")),
    });
    const as = (caller: Caller) =>
      createHandlerContext({
        ...{ service: HostService, method: HostService.method.getHost, protocolName: "connect" },
        ...{ requestMethod: "POST", url },
        contextValues: createContextValues().set(callerKey, caller),
      });
    t.match(await getHost(create(GetHostRequestSchema), as("operator")), { hostId: "host-a" });
    t.throws(() => getHost(create(GetHostRequestSchema), as("host")), {
      message: "hosts may not read from each other",
    });
    const lease = (caller: Caller, ticket: string) =>
      getLease(create(GetLeaseRequestSchema, { ticket }), as(caller));
    t.match(await lease("host", "good"), { holds: true });
    t.throws(() => lease("host", "bad"), { message: "hosts may not read from each other" });
    for (const caller of ["operator", "control-plane"] as const)
      t.match(await lease(caller, ""), { holds: true });
  },
);

await t.test("metrics are for operators", async (t) => {
  const scrape = async (credentials: Credentials) => {
    const request = https.request(url, { ...credentials, path: "/metrics", servername, agent: false }).end();
    const [response] = (await once(request, "response")) as [IncomingMessage];
    response.resume();
    return response;
  };
  t.match(await scrape(operator), {
    statusCode: 200,
    headers: { "content-type": /^text\/plain; version=0.0.4/ },
  });
  t.match(await scrape(host), { statusCode: 404 });
});

await t.test("nobody gets in without a certificate of this cloud", async (t) => {
  await using other = await TransportWorld.start();
  const { key, cert } = (await other.join("x")).credentials;
  const foreign = { key, cert, ca };
  const gateway = await world.authority.issueGateway(["127.0.0.1"], 60_000);
  const notAClient = { key: gateway.privatePem, cert: gateway.certificatePem, ca };
  for (const credentials of [{ ca }, foreign, notAClient]) {
    const call = requestHttp1({ ...credentials, path: listMachines, body: "{}", type: "application/json" });
    await t.rejects(call, { code: /ERR_SSL|ECONNRESET|EPIPE/ });
  }
});

await t.test("gRPC: a @grpc/grpc-js client", async (t) => {
  const channel = grpc.credentials.createSsl(
    Buffer.from(ca),
    Buffer.from(operator.key),
    Buffer.from(operator.cert),
  );
  const client = new grpc.Client(`127.0.0.1:${listener.port}`, channel, {
    "grpc.ssl_target_name_override": servername,
  });
  t.teardown(() => client.close());
  const call = (path: string, request: Buffer) =>
    new Promise<Buffer>((resolve, reject) => {
      const same = (bytes: Buffer) => bytes;
      client.makeUnaryRequest(path, same, same, request, (error, answer) => {
        if (answer) resolve(answer);
        else reject(error ?? new Error("no answer"));
      });
    });
  const answer = await call(listMachines, emptyMessage);
  t.match(fromBinary(ListMachinesResponseSchema, answer), {
    machines: [{ id: "vm-1", message: "operator" }],
  });
  const refusal: unknown = await call("/skerry.agent.v1.MachineService/EnsureMachine", emptyMessage).catch(
    (error: unknown) => error,
  );
  t.match(refusal, { code: grpc.status.PERMISSION_DENIED });
  t.same((refusal as grpc.ServiceError).metadata.get("skerry-reason"), ["CONTROL_PLANE_ONLY"]);
});

await t.test("gRPC-Web and Connect with JSON over HTTP/1.1", async (t) => {
  const frame = Buffer.concat([Buffer.alloc(5), emptyMessage]);
  const web = await requestHttp1({
    ...operator,
    path: listMachines,
    body: frame,
    type: "application/grpc-web+proto",
  });
  t.equal(web.status, 200);
  const length = web.body.readUInt32BE(1);
  t.match(fromBinary(ListMachinesResponseSchema, web.body.subarray(5, 5 + length)), {
    machines: [{ id: "vm-1" }],
  });
  t.match(web.body.subarray(5 + length + 5).toString(), /grpc-status: 0/);
  const json = await requestHttp1({ ...operator, path: listMachines, body: "{}", type: "application/json" });
  t.same(JSON.parse(json.body.toString()), { machines: [{ id: "vm-1", message: "operator" }] });
});

await t.test("health, as probes ask for it", async (t) => {
  const healthFor = (credentials: Credentials) =>
    createClient(Health, createGrpcTransport({ baseUrl: url, nodeOptions: { ...credentials, servername } }));
  await t.rejects(
    healthFor(host).check({}),
    { code: 7 },
    "a host, which may have been removed, is told nothing",
  );
  const health = healthFor(operator);
  t.match(await health.check({}), { status: ServingStatus.SERVING });
  t.match(await health.check({ service: MachineService.typeName }), { status: ServingStatus.SERVING });
  await t.rejects(health.check({ service: "nothing" }), { code: 5 });
  const seen: ServingStatus[] = [];
  for await (const { status } of health.watch({}, { signal: AbortSignal.timeout(60_000) })) {
    seen.push(status);
    if (seen.length === 1) services.health.serving = false;
    else break;
  }
  t.same(seen, [ServingStatus.SERVING, ServingStatus.NOT_SERVING]);
  services.health.serving = true;
});

await t.test("reflection answers what there is and what there is not", async (t) => {
  const transport = createGrpcTransport({ baseUrl: url, nodeOptions: { ...operator, servername } });
  const ask = async (request: Parameters<typeof createRequest>[0]) => {
    const answers = createClient(ServerReflection, transport).serverReflectionInfo(createRequest(request));
    for await (const { messageResponse } of answers) return messageResponse;
    return undefined;
  };
  const files = async (request: Parameters<typeof createRequest>[0]) => {
    const answer = await ask(request);
    return answer?.case === "fileDescriptorResponse"
      ? answer.value.fileDescriptorProto.length
      : answer?.value;
  };
  const asHost = createGrpcTransport({ baseUrl: url, nodeOptions: { ...host, servername } });
  const listing = createClient(ServerReflection, asHost).serverReflectionInfo(
    createRequest({ case: "listServices", value: "" }),
  );
  await t.rejects(listing[Symbol.asyncIterator]().next(), { code: 7 }, "not for hosts");
  t.match(await ask({ case: "listServices", value: "" }), {
    value: { service: [{ name: "skerry.agent.v1.MachineService" }, {}, {}] },
  });
  const withImports = 4;
  t.equal(await files({ case: "fileByFilename", value: "skerry/agent/v1/machine.proto" }), withImports);
  t.equal(await files({ case: "fileByFilename", value: "google/protobuf/timestamp.proto" }), 1);
  for (const value of ["MachineService", "MachineService.GetMachine", "Machine", "MachineState"]) {
    const symbol = `skerry.agent.v1.${value}`;
    t.equal(await files({ case: "fileContainingSymbol", value: symbol }), withImports, symbol);
  }
  t.equal(await files({ case: "fileContainingSymbol", value: "skerry.agent.v1.AttachRequest.Open" }), 1);
  t.match(await files({ case: "fileContainingSymbol", value: "skerry.Nothing" }), { errorCode: 5 });
});

await t.test("buf curl lists and calls through reflection", async (t) => {
  const flags: string[] = [];
  for (const [flag, text] of Object.entries({ cacert: ca, key: operator.key, cert: operator.cert })) {
    const path = join(world.directory, `${flag}.pem`);
    await writeFile(path, text, { mode: 0o600 });
    flags.push(`--${flag}`, path);
  }
  const curl = async (...args: string[]) => {
    const command = ["--yes", "@bufbuild/buf@1.59.0", "curl", ...flags, "--servername", servername, ...args];
    return (await promisify(execFile)("npx", command, { timeout: 120_000 })).stdout;
  };
  t.match(await curl("--list-methods", url), "skerry.agent.v1.MachineService/ListMachines");
  for (const [protocol, version] of [
    ["grpc", "grpc-v1"],
    ["connect", "grpc-v1alpha"],
  ] as const) {
    const output = await curl("--protocol", protocol, "--reflect-protocol", version, `${url}${listMachines}`);
    t.same(JSON.parse(output), { machines: [{ id: "vm-1", message: "operator" }] }, protocol);
  }
});

await t.test("a renewed certificate is used for new connections", async (t) => {
  const shown = async () => {
    const socket = tls.connect({ host: "127.0.0.1", port: listener.port, servername, ...operator });
    await once(socket, "secureConnect");
    const serial = socket.getPeerX509Certificate()?.serialNumber;
    socket.destroy();
    return serial;
  };
  const before = await shown();
  await identity.renew(async (request) => ({
    certificate: await world.authority.issueHost("host-a", request),
    authorities: ca,
  }));
  t.not(await shown(), before);
});

async function operatorCertificate(name: string): Promise<Credentials> {
  const key = newPrivateKey();
  const cert = await world.authority.issueOperator(name, createCertificateRequest(key));
  return { key: key.export({ type: "pkcs8", format: "pem" }).toString(), cert, ca };
}

async function* createRequest(messageRequest: {
  case: "listServices" | "fileByFilename" | "fileContainingSymbol";
  value: string;
}) {
  yield { messageRequest };
}

async function requestHttp1(options: {
  ca: string;
  key?: string;
  cert?: string;
  path: string;
  body: string | Buffer;
  type: string;
}): Promise<{ status: number | undefined; body: Buffer }> {
  const { body, type, ...target } = options;
  const headers = { "content-type": type };
  const request = https.request(url, { ...target, method: "POST", servername, headers, agent: false });
  request.end(body);
  const [response] = (await once(request, "response")) as [NodeJS.ReadableStream & { statusCode?: number }];
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  return { status: response.statusCode, body: Buffer.concat(chunks) };
}
