import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { connectSocket } from "#agent/drivers/hypervisor/files.ts";
import { EventQueue } from "#agent/qmp/event-queue.ts";
import { QmpSession } from "#agent/qmp/session.ts";
import { encodeJsonLine, JsonLineDecoder } from "#agent/qmp/wire.ts";
import type { QmpEvent } from "#agent/qmp/commands.ts";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Teardown } from "#test/support/postgres.ts";
import { until } from "#test/support/until.ts";

const greeting = { QMP: { version: { qemu: { major: 7, minor: 2, micro: 22 } }, capabilities: ["oob"] } };
const signal = AbortSignal.timeout(60_000);

/** What the scripted monitor does when it is sent a command. */
type Script = (command: { execute: string; arguments: unknown; id: number }, socket: Socket) => void;

const polite: Script = (command, socket) => {
  socket.write(encodeJsonLine({ return: {}, id: command.id }));
};

/** A monitor on a Unix socket that greets, accepts capabilities, then follows its script. */
async function scripted(
  t: Teardown,
  script: Script,
  first: string = encodeJsonLine(greeting),
): Promise<Socket> {
  const folder = await mkdtemp(join(tmpdir(), "qmp-"));
  const server = createServer((socket) => {
    const decoder = new JsonLineDecoder();
    socket.write(first);
    socket.on("error", () => undefined);
    socket.on("data", (chunk: Buffer) => {
      for (const message of decoder.push(chunk)) {
        const command = message as Parameters<Script>[0];
        (command.execute === "qmp_capabilities" ? polite : script)(command, socket);
      }
    });
  });
  server.listen(join(folder, "socket"));
  await once(server, "listening");
  const socket = connect(join(folder, "socket"));
  t.teardown(async () => {
    socket.destroy();
    server.close();
    await rm(folder, { recursive: true });
  });
  return socket;
}

async function faultOf(work: Promise<unknown>): Promise<Fault> {
  try {
    await work;
  } catch (thrown) {
    return toFault(thrown);
  }
  throw new Error("it should have failed");
}

await t.test("wire", async (t) => {
  const line = Buffer.from('{"a":"ä"}\r\n{"b":2}\n\n{"c"');
  for (const size of [1, 2, 3, 7, line.length]) {
    const decoder = new JsonLineDecoder();
    const found: unknown[] = [];
    for (let at = 0; at < line.length; at += size) found.push(...decoder.push(line.subarray(at, at + size)));
    found.push(...decoder.push(Buffer.from(":3}\n")));
    t.same(found, [{ a: "ä" }, { b: 2 }, { c: 3 }], `cut into pieces of ${String(size)}`);
  }
  for (const bad of ["nonsense\n", "[1]\n", "null\n", `"${"x".repeat(64)}`]) {
    const decode = async () => new JsonLineDecoder(32).push(Buffer.from(bad));
    t.match(await faultOf(decode()), { reason: "QMP_PROTOCOL" }, bad.slice(0, 9));
  }
});

await t.test("replies find their commands, whatever their order", async (t) => {
  const held: { execute: string; id: number }[] = [];
  const socket = await scripted(t, (command, socket) => {
    held.push(command);
    if (held.length < 2) return;
    for (const { id, execute } of held.reverse()) {
      socket.write(encodeJsonLine({ return: { status: execute, enabled: execute }, id }));
    }
  });
  using session = await QmpSession.open(socket, { signal });
  const [status, kvm] = await Promise.all([
    session.execute("query-status", {}, { signal }),
    session.execute("query-kvm", {}, { signal }),
  ]);
  t.match(status, { status: "query-status" });
  t.match(kvm, { enabled: "query-kvm" });
});

await t.test("no, too late and gone are three faults", async (t) => {
  const socket = await scripted(t, (command, socket) => {
    if (command.execute === "cont") {
      socket.write(encodeJsonLine({ error: { class: "GenericError", desc: "/a/path" }, id: command.id }));
    } else if (command.execute === "quit") socket.destroy();
  });
  using session = await QmpSession.open(socket, { signal });

  const refused = await faultOf(session.execute("cont", {}, { signal }));
  t.match(refused, { code: "internal", reason: "QMP_COMMAND_FAILED", detail: { command: "cont" } });
  t.notMatch(refused.message, "/a/path", "what QEMU said is for operators");
  t.match(refused.cause, { message: /\/a\/path/ });

  const late = await faultOf(session.execute("query-status", {}, { signal, timeoutMs: 30 }));
  t.match(late, { code: "unavailable", reason: "QMP_TIMEOUT", retryable: true });

  const cancel = new AbortController();
  const cancelled = faultOf(session.execute("query-status", {}, { signal: cancel.signal }));
  cancel.abort(new Fault("stale", "a newer one came"));
  t.match(await cancelled, { code: "stale" }, "the caller's own reason");

  const waiting = faultOf(session.execute("query-kvm", {}, { signal }));
  const gone = await faultOf(session.execute("quit", {}, { signal }));
  t.match(gone, { code: "unavailable", reason: "QMP_DISCONNECTED" });
  t.match(await waiting, { reason: "QMP_DISCONNECTED" }, "so is whatever else was under way");
  const after = await faultOf(session.execute("query-status", {}, { signal }));
  t.match(after, { reason: "QMP_DISCONNECTED" }, "and whatever comes later");
});

await t.test("a late reply is not taken for another's", async (t) => {
  let first: number | undefined;
  const socket = await scripted(t, (command, socket) => {
    if (first === undefined) first = command.id;
    else {
      socket.write(encodeJsonLine({ return: { status: "late" }, id: first }));
      socket.write(encodeJsonLine({ return: { status: "right" }, id: command.id }));
    }
  });
  using session = await QmpSession.open(socket, { signal });
  await faultOf(session.execute("query-status", {}, { signal, timeoutMs: 30 }));
  t.match(await session.execute("query-status", {}, { signal }), { status: "right" });
});

await t.test("greetings that never come or are none", async (t) => {
  const silent = await scripted(t, polite, "");
  t.match(await faultOf(QmpSession.open(silent, { signal, timeoutMs: 30 })), { reason: "QMP_TIMEOUT" });
  t.equal(silent.destroyed, true, "the stream is not left open");
  const strange = await scripted(t, polite, "SSH-2.0-OpenSSH\n");
  t.match(await faultOf(QmpSession.open(strange, { signal })), { reason: "QMP_DISCONNECTED" });
  const odd = await scripted(t, polite, encodeJsonLine({ hello: "world" }));
  t.match(await faultOf(QmpSession.open(odd, { signal })), { reason: "QMP_DISCONNECTED" });
});

await t.test("events come in order, before the end, and none is lost", async (t) => {
  const event = (name: string) =>
    encodeJsonLine({ event: name, data: { guest: true }, timestamp: { seconds: 7, microseconds: 250_000 } });
  const socket = await scripted(t, (command, socket) => {
    socket.write(event("POWERDOWN") + encodeJsonLine({ return: {}, id: command.id }));
    socket.end(event("SHUTDOWN"));
  });
  using session = await QmpSession.open(socket, { signal });
  await session.execute("system_powerdown", {}, { signal });
  const seen: QmpEvent[] = [];
  for await (const found of session.events(signal)) seen.push(found);
  t.same(seen, [
    { name: "POWERDOWN", data: { guest: true }, atMs: 7250 },
    { name: "SHUTDOWN", data: { guest: true }, atMs: 7250 },
  ]);
});

await t.test("the event queue is bounded and stops with its signal", async (t) => {
  const queue = new EventQueue<number>(2);
  for (const item of [1, 2, 3]) queue.push(item);
  const stop = new AbortController();
  const seen: number[] = [];
  for await (const item of queue.drain(stop.signal)) {
    seen.push(item);
    if (item === 3) setImmediate(() => stop.abort());
  }
  t.same(seen, [2, 3], "the oldest went first");
  queue.push(4);
  queue.end();
  queue.push(5);
  for await (const item of queue.drain(new AbortController().signal)) seen.push(item);
  t.same(seen, [2, 3, 4], "what came between two consumers is kept; nothing comes after the end");
});

void t.test("a hypervisor that dies before anybody listens to its socket ends nothing here", async (t) => {
  const directory = t.testdir();
  // It listens and never takes a connection: what waits for it is reset when it dies.
  const listening = `require("node:net").createServer().listen("s", () => {
    require("node:fs").writeSync(1, "on");
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  })`;
  const hypervisor = spawn(process.execPath, ["-e", listening], {
    cwd: directory,
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.teardown(() => hypervisor.kill("SIGKILL"));
  await once(hypervisor.stdout, "data");
  const socket = await connectSocket(directory, "s", AbortSignal.timeout(60_000));
  hypervisor.kill("SIGKILL");
  await until(() => socket.closed);
  t.match(socket.errored, { code: "ECONNRESET" });
});
