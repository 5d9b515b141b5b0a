import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { parseAddress } from "#agent/control/dial.ts";
import { Identity } from "#agent/control/identity.ts";
import { createCertificateRequest, newPrivateKey } from "#kernel/certificate-request.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { openAuthority } from "#test/support/transport-world.ts";

const day = 86_400_000;
const directory = await mkdtemp(join(tmpdir(), "identity-"));
t.teardown(() => rm(directory, { recursive: true }));
const authority = await openAuthority();
const issue = (hostId: string) => async (request: string) => ({
  certificate: await authority.issueHost(hostId, request),
  authorities: authority.certificatePem,
});

await t.test("an identity is made, enrolled, kept and renewed", async (t) => {
  const path = join(directory, "new", "identity.pem");
  t.equal(await Identity.find(path), undefined);
  const identity = await Identity.open(path);
  t.equal(identity.hostId, undefined);
  t.equal(await reasonOf(() => identity.credentials), "NOT_ENROLLED");
  t.same(identity.status, { hostId: undefined, expiresAt: undefined, renewalDueAt: undefined });
  t.equal(identity.renewalInMs, Infinity);

  const keys: string[] = [];
  const remember = async (request: string) => {
    keys.push(await authority.pinOfRequest(request));
    throw new Error("the answer was lost");
  };
  await t.rejects(identity.enrol(remember), { message: "the answer was lost" });
  await t.rejects((await Identity.open(path)).enrol(remember), { message: "the answer was lost" });
  t.equal(keys[0], keys[1], "after a crash, too, the same key asks again");

  t.equal(await identity.enrol(issue("host-1")), "host-1");
  t.equal((await stat(path)).mode & 0o777, 0o600);
  const read = await Identity.open(path);
  t.same(read.credentials, identity.credentials);
  t.equal(read.hostId, "host-1");

  let changes = 0;
  const listening = identity.onChange(() => changes++);
  await identity.renew(issue("host-1"));
  t.not(identity.credentials.key, read.credentials.key);
  t.same((await Identity.open(path)).credentials, identity.credentials);
  listening[Symbol.dispose]();
  await identity.renew(issue("host-1"));
  t.equal(changes, 1);
});

await t.test("renewal is due after a third of the life, a little later for some", async (t) => {
  const path = join(directory, "due.pem");
  await (await Identity.open(path)).enrol(issue("host-1"));
  const at = (days: number) => Identity.open(path, () => Date.now() + days * day);
  const due: number[] = [];
  for (let i = 0; i < 20; i++) due.push((await at(0)).renewalInMs / day);
  t.ok(Math.min(...due) > 9.9 && Math.max(...due) < 13.1, `${Math.min(...due)} to ${Math.max(...due)} days`);
  t.ok(
    new Set(due.map((days) => days.toFixed(2))).size > 5,
    "hosts that joined together do not renew together",
  );
  t.equal((await at(14)).renewalInMs, 0);
  t.equal((await at(29)).expired, false);
  t.equal((await at(31)).expired, true);
});

await t.test("a certificate that is not this host's is refused, and the old identity stays", async (t) => {
  const path = join(directory, "wrong.pem");
  const identity = await Identity.open(path);
  await identity.enrol(issue("host-1"));
  const before = await readFile(path, "utf8");
  const otherKey = createCertificateRequest(newPrivateKey());
  const other = await openAuthority();
  const answers = {
    "another key": () => issue("host-1")(otherKey),
    "an operator": async (request: string) => ({
      certificate: await authority.issueOperator("ann", request),
      authorities: authority.certificatePem,
    }),
    "another authority": async (request: string) => ({
      certificate: await other.issueHost("host-1", request),
      authorities: authority.certificatePem,
    }),
  };
  for (const [name, answer] of Object.entries(answers)) {
    t.equal(await reasonOf(identity.renew(answer)), "CERTIFICATE_WRONG", name);
  }
  t.equal(await readFile(path, "utf8"), before);
  await writeFile(path, before.replace(/-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----\n/, ""));
  t.equal(await reasonOf(Identity.open(path)), "IDENTITY_UNREADABLE");
});

await t.test("a gateway's address is host:port", async (t) => {
  t.same(parseAddress("gw.example.org:8443"), { host: "gw.example.org", port: 8443 });
  t.same(parseAddress("[::1]:1"), { host: "::1", port: 1 });
  for (const wrong of ["", "gw", "gw:", "gw:0", "gw:65536", "::1:80", "https://gw:1", "[gw]:1", "gw:1 "]) {
    t.equal(await reasonOf(() => parseAddress(wrong)), "ADDRESS_INVALID", wrong);
  }
});
