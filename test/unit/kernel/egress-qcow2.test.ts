import t from "tap";
import { addressRanges, mayConnect } from "#kernel/address.ts";
import { diskHeaderBytes, inspectDisk, parseQcow2Header } from "#kernel/qcow2.ts";
import { stallLimited, unlessAborted } from "#kernel/stall.ts";
import { reasonOf } from "#test/support/reason-of.ts";

const publicAddresses = [
  "1.1.1.1",
  "9.9.9.9",
  "172.15.255.255",
  "172.32.0.0",
  "100.128.0.0",
  "2606:4700::1111",
];
const innerAddresses = [
  ["this host", "0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.254", "::1", "::"],
  ["private", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd12:3456::1", "fc00::1"],
  ["link-local", "169.254.0.1", "fe80::1", "fe80::1%eth0", "febf::1"],
  ["metadata", "169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"],
  ["carrier-grade NAT", "100.64.0.1", "100.127.255.255"],
  ["multicast and reserved", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "ff02::1"],
  ["documentation and tests", "192.0.2.1", "198.51.100.7", "203.0.113.9", "198.18.0.1", "2001:db8::1"],
  [
    "IPv4 in IPv6",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:a00:1",
    "::127.0.0.1",
    "0:0:0:0:0:ffff:c0a8:101",
  ],
  ["tunnels to inner addresses", "64:ff9b::7f00:1", "64:ff9b::10.0.0.1", "2002:7f00:1::", "2001::1"],
  ["no address at all", "example.org", "", "1.2.3", "0x7f.1"],
] as const;

await t.test("only public addresses may be reached", async (t) => {
  const none = addressRanges([]);
  for (const address of publicAddresses) t.ok(mayConnect(address, none), address);
  for (const [what, ...addresses] of innerAddresses) {
    for (const address of addresses) t.notOk(mayConnect(address, none), `${what}: ${address}`);
  }
  t.ok(mayConnect("64:ff9b::101:101", none), "a public address behind NAT64 is public");
  t.ok(mayConnect("::ffff:1.1.1.1", none), "a public address in IPv6 clothes is public");
});

await t.test("the operator may allow ranges", async (t) => {
  const some = addressRanges(["10.1.0.0/16", "192.168.7.7", "fd00::/8"]);
  for (const address of ["10.1.2.3", "192.168.7.7", "fd99::1", "::ffff:10.1.2.3"]) {
    t.ok(mayConnect(address, some), address);
  }
  for (const address of ["10.2.0.1", "192.168.7.8", "fc00::1"]) t.notOk(mayConnect(address, some), address);
  for (const range of ["10.0.0.0/33", "10.0.0.0/", "10.0.0.0/8/8", "home", "fd00::/129", ""]) {
    t.equal(await reasonOf(() => addressRanges([range])), "ADDRESS_RANGE_INVALID", JSON.stringify(range));
  }
});

/** A version 3 header with some bytes changed. */
function header(changes: Record<number, number> = {}): Buffer {
  const bytes = Buffer.alloc(diskHeaderBytes);
  bytes.writeUInt32BE(0x514649fb, 0);
  bytes.writeUInt32BE(3, 4);
  bytes.writeUInt32BE(16, 20);
  bytes.writeBigUInt64BE(4n * 1024n ** 3n, 24);
  for (const [at, byte] of Object.entries(changes)) bytes[Number(at)] = byte;
  return bytes;
}

await t.test("a qcow2 is judged by its header", async (t) => {
  t.same(inspectDisk(header()), { format: "qcow2", virtualSizeBytes: 4n * 1024n ** 3n });
  t.same(inspectDisk(header({ 7: 2, 79: 0xff })), inspectDisk(header()), "version 2 has no features");
  const refused = [
    ["IMAGE_HAS_BACKING_FILE", header({ 15: 112 })],
    ["IMAGE_HAS_BACKING_FILE", header({ 8: 1 })],
    ["IMAGE_HAS_DATA_FILE", header({ 79: 4 })],
    ["IMAGE_ENCRYPTED", header({ 35: 2 })],
    ["IMAGE_CORRUPT", header({ 79: 2 })],
    ["IMAGE_CORRUPT", header({ 7: 4 })],
    ["IMAGE_CORRUPT", header({ 23: 99 })],
    ["IMAGE_CORRUPT", header().subarray(0, 50)],
  ] as const;
  for (const [reason, bytes] of refused) t.equal(await reasonOf(() => inspectDisk(bytes)), reason);
});

await t.test("what is no qcow2 is raw, unless it is plainly something else", async (t) => {
  t.equal(inspectDisk(Buffer.alloc(512)).format, "raw");
  t.equal(inspectDisk(Buffer.from("QFI")).format, "raw", "shorter than any header");
  t.equal(parseQcow2Header(new Uint8Array()), undefined);
  for (const start of ["KDMV", "vhdxfile", "<!DOCTYPE html>", "BZh9", "\xfd7zXZ", "\x1f\x8b\x08"]) {
    const bytes = Buffer.concat([Buffer.from(start, "latin1"), Buffer.alloc(100)]);
    t.equal(await reasonOf(() => inspectDisk(bytes)), "IMAGE_FORMAT_UNSUPPORTED", JSON.stringify(start));
  }
});

await t.test("a source that stalls ends in a fault, a slow consumer does not", async (t) => {
  const stop = new AbortController();
  async function* stalling(signal: AbortSignal) {
    yield 1;
    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("closed"))));
  }
  const seen: number[] = [];
  const reading = async () => {
    for await (const value of stallLimited(stalling, 20, stop.signal)) seen.push(value);
  };
  t.equal(await reasonOf(reading()), "SERVER_STALLED");
  t.same(seen, [1]);

  async function* quick() {
    yield 1;
    yield 2;
  }
  const slow: number[] = [];
  for await (const value of stallLimited(quick, 5, stop.signal)) {
    await new Promise((resolve) => setTimeout(resolve, 15));
    slow.push(value);
  }
  t.same(slow, [1, 2]);

  const never = unlessAborted(new Promise(() => undefined), stop.signal);
  stop.abort();
  t.equal(await reasonOf(never), "CANCELLED");
});
