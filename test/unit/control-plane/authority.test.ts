import { createPrivateKey, generateKeyPairSync, webcrypto, X509Certificate } from "node:crypto";
import "reflect-metadata";
import t from "tap";
import * as x509 from "@peculiar/x509";
import { createCertificateRequest, newPrivateKey } from "#kernel/certificate-request.ts";
import { isLeaseTicket } from "#kernel/lease-ticket.ts";
import { pinOf } from "#kernel/pin.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { MemoryKeys, openAuthority } from "#test/support/transport-world.ts";

const day = 86_400_000;

await t.test("all replicas are one authority", async (t) => {
  const keys = new MemoryKeys();
  const [first, second] = await Promise.all([openAuthority({ keys }), openAuthority({ keys })]);
  const third = await openAuthority({ keys });
  t.same([second.pin, third.pin], [first.pin, first.pin]);
  t.equal(first.pin, pinOf(new X509Certificate(first.certificatePem).raw));
  const issued = await second.issueHost("host-1", createCertificateRequest(newPrivateKey()));
  t.match(third.verify(new X509Certificate(issued)), { role: "host", name: "host-1", expired: false });
  t.equal(new X509Certificate(first.certificatePem).ca, true);
  t.not((await openAuthority()).pin, first.pin, "another cloud is another authority");
});

await t.test("certificates say who, for what and how long", async (t) => {
  const now = Date.parse("2030-01-01T00:00:00Z");
  const authority = await openAuthority({ now: () => now });
  const key = newPrivateKey();
  const request = createCertificateRequest(key);
  const host = new X509Certificate(await authority.issueHost("host-1", request));
  t.ok(host.checkPrivateKey(key));
  t.equal(host.ca, false);
  t.equal(host.subjectAltName, "URI:skerry://host/host-1, DNS:host-1");
  t.same(host.keyUsage, ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]);
  t.equal(Date.parse(host.validFrom), now - 5 * 60_000, "a clock that is behind accepts it");
  t.equal(Date.parse(host.validTo), now + 30 * day);

  const operator = new X509Certificate(await authority.issueOperator("ann@example.org", request));
  t.equal(operator.subjectAltName, "URI:skerry://operator/ann@example.org");
  t.same(operator.keyUsage, ["1.3.6.1.5.5.7.3.2"], "a client only");
  t.equal(Date.parse(operator.validTo), now + 8 * 3_600_000);

  const { privatePem, certificatePem } = await authority.issueGateway(
    ["gw.example.org", "10.0.0.1", "::1"],
    day,
  );
  const gateway = new X509Certificate(certificatePem);
  t.ok(gateway.checkPrivateKey(createPrivateKey(privatePem)));
  t.ok(gateway.checkHost("gw.example.org"));
  t.ok(gateway.checkIP("10.0.0.1") && gateway.checkIP("::1"));
  t.same(gateway.keyUsage, ["1.3.6.1.5.5.7.3.1"], "a server only");
  t.match(authority.verify(gateway), { role: "gateway", name: "gateway" });
});

await t.test("a name cannot smuggle anything into a certificate", async (t) => {
  const authority = await openAuthority();
  const request = createCertificateRequest(newPrivateKey());
  for (const name of ["", "a b", "a, URI:skerry://host/x", "a/b", "é", "x".repeat(65), "a\n"]) {
    t.equal(await reasonOf(authority.issueOperator(name, request)), "NAME_INVALID", JSON.stringify(name));
  }
});

await t.test("a request must be for a P-256 key and signed with it", async (t) => {
  const authority = await openAuthority();
  const good = createCertificateRequest(newPrivateKey());
  // Lengths of signatures differ, so try the encoder on a good many.
  for (let i = 0; i < 40; i++) await authority.pinOfRequest(createCertificateRequest(newPrivateKey()));
  t.equal(await authority.pinOfRequest(good), await authority.pinOfRequest(good));

  const other = Buffer.from(body(createCertificateRequest(newPrivateKey())), "base64");
  const forged = Buffer.from(body(good), "base64");
  const keyAt = forged.indexOf(Buffer.from("03420004", "hex"));
  other.copy(forged, keyAt, keyAt, keyAt + 68); // somebody else's public key under this signature
  const pem = (type: string, der: Uint8Array) =>
    `-----BEGIN ${type}-----\n${Buffer.from(der).toString("base64")}\n-----END ${type}-----\n`;
  const requests = {
    forged: pem("CERTIFICATE REQUEST", forged),
    rsa: await foreignRequest({
      name: "RSASSA-PKCS1-v1_5",
      hash: "SHA-256",
      modulusLength: 2048,
      publicExponent: Uint8Array.of(1, 0, 1),
    }),
    p384: await foreignRequest({ name: "ECDSA", namedCurve: "P-384", hash: "SHA-384" }),
    empty: "",
    noise: "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    key: pem("PUBLIC KEY", generateKeyPairSync("ed25519").publicKey.export({ type: "spki", format: "der" })),
  };
  for (const [name, request] of Object.entries(requests)) {
    t.equal(await reasonOf(authority.issueHost("host-1", request)), "CERTIFICATE_REQUEST_INVALID", name);
  }
});

await t.test("only what this authority issued is verified", async (t) => {
  let now = Date.now();
  const authority = await openAuthority({ now: () => now });
  const other = await openAuthority();
  const request = createCertificateRequest(newPrivateKey());
  t.equal(authority.verify(new X509Certificate(await other.issueHost("host-1", request))), undefined);
  t.equal(
    authority.verify(new X509Certificate(authority.certificatePem)),
    undefined,
    "not even its own root",
  );
  const own = new X509Certificate(await authority.issueHost("host-1", request));
  now += 31 * day;
  t.match(authority.verify(own), { expired: true });
  now -= 32 * day;
  t.equal(authority.verify(own), undefined, "not valid yet");
});

async function foreignRequest(
  algorithm: webcrypto.RsaHashedKeyGenParams | (webcrypto.EcKeyGenParams & webcrypto.EcdsaParams),
): Promise<string> {
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: "CN=x",
    keys,
    signingAlgorithm: algorithm,
  });
  return request.toString("pem");
}

function body(pem: string): string {
  return pem.replace(/-----[^-]+-----/g, "");
}

await t.test("leave to ask a host about its lease is for that host, and for two hours", async (t) => {
  const now = Date.parse("2030-01-01T00:00:00Z");
  const hour = 3_600_000;
  const authority = await openAuthority({ now: () => now });
  const key = new X509Certificate(authority.certificatePem).publicKey;
  const ticket = authority.issueLeaseTicket("host-1");
  for (const clock of [now - hour, now, now + hour]) t.ok(isLeaseTicket(ticket, "host-1", key, clock));
  t.notOk(isLeaseTicket(ticket, "host-2", key, now), "of another host");
  t.notOk(isLeaseTicket(ticket, "host-1", key, now + 2 * hour + 1), "too old");
  t.notOk(isLeaseTicket(ticket.replace(String(now), String(now + hour)), "host-1", key, now), "made younger");
  const stranger = new X509Certificate((await openAuthority()).certificatePem).publicKey;
  t.notOk(isLeaseTicket(ticket, "host-1", stranger, now), "of another cloud");
  for (const nonsense of ["", "1", ".", `${String(now)}.`, `${String(now)}.AAAA`, `${ticket}.x`])
    t.notOk(isLeaseTicket(nonsense, "host-1", key, now), nonsense);
});
