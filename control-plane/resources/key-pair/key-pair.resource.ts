import { z } from "zod";
import { defineResource, type Resource } from "../definition.ts";
import { fingerprintOf, formatPublicKey, generateKeyPair, parsePublicKey } from "./openssh.ts";

export const keyPairSpec = z.strictObject({
  public_key: z
    .string()
    .min(1)
    .max(16384)
    .nullable()
    .default(null)
    .describe("one line as OpenSSH writes it; without it a key pair is made"),
});
export type KeyPairSpec = z.infer<typeof keyPairSpec>;

export const keyPairStatus = z.strictObject({
  type: z.string().describe("such as ssh-ed25519"),
  fingerprint: z.string().describe("SHA-256, as ssh-keygen shows it"),
});
export type KeyPairStatus = z.infer<typeof keyPairStatus>;

export const keyPairPhases = ["available", "deleting"] as const;
export type KeyPairPhase = (typeof keyPairPhases)[number];
export type KeyPair = Resource<KeyPairSpec, KeyPairStatus, KeyPairPhase>;

export const keyPair = defineResource<KeyPairSpec, KeyPairStatus, KeyPairPhase>({
  kind: "key_pair",
  plural: "key-pairs",
  idPrefixes: ["key"],
  summary: "A public SSH key that new instances let in",
  scope: "project",
  spec: keyPairSpec,
  status: keyPairStatus,
  immutable: ["public_key"],
  phases: keyPairPhases,
  phase: ({ deletingAt }) => (deletingAt ? "deleting" : "available"),
  next: { available: ["deleting"], deleting: [] },
  settled: ["available"],
  verbs: {},
  references: {},
  filters: { fingerprint: { summary: "of the public key", path: ["observed", "fingerprint"] } },
  access: { read: "viewer", create: "operator", update: "operator", delete: "operator" },
  reconciled: false,
  uniqueNames: true,
  schemaVersion: 1,
  example: {
    name: "my-keypair",
    spec: {
      public_key:
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFVm8ZC1u7cQb9vVd2d3uQd8o5pJm4d0m2wYxY2n8K3q ops@example.com",
    },
    status: { type: "ssh-ed25519", fingerprint: "SHA256:Q2cVf0vQ6mU0m3gk1s1oXb0Zq8e1rJv8b2s6nq0t3yE" },
  },
  shownOnce: {
    private_key: {
      summary: "the private half of a key pair that was made here; it is kept nowhere",
      make(spec) {
        if (spec.public_key !== null) return undefined;
        const { publicKey, privateKey } = generateKeyPair();
        return { spec: { public_key: formatPublicKey(publicKey) }, secret: privateKey };
      },
    },
  },
  initial({ public_key }) {
    const key = parsePublicKey(public_key ?? "");
    return { type: key.type, fingerprint: fingerprintOf(key) };
  },
  validate({ public_key }) {
    if (public_key !== null) parsePublicKey(public_key);
  },
});
