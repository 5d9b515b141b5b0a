import { z } from "zod";
import { nameSchema } from "../../http/native-json.ts";
import {
  keyPair,
  keyPairSpec,
  type KeyPair,
  type KeyPairPhase,
} from "../../resources/key-pair/key-pair.resource.ts";
import { defineKind } from "../define-kind.ts";
import { withPrefix } from "../dialect.ts";

const phases = { available: "available", deleting: "deleting" } as const satisfies Record<
  KeyPairPhase,
  string
>;

const wire = z.object({
  key_pair_id: z.string(),
  name: z.string(),
  type: z.string(),
  fingerprint: z.string(),
  public_key: z.string(),
  created_at: z.iso.datetime(),
});

export const keyPairKind = defineKind({
  definition: keyPair,
  path: "/compute/key-pairs",
  idName: "key_pair",
  noun: "Key pair",
  type: "KeyPair",
  types: "KeyPairs",
  idPrefix: "key",
  named: true,
  phases,
  fields: {},
  wire,
  encode: ({ id, name, desired, observed, createdAt }: KeyPair): z.infer<typeof wire> => ({
    key_pair_id: withPrefix(id, "key"),
    name,
    type: observed?.type ?? "",
    fingerprint: observed?.fingerprint ?? "",
    public_key: desired.public_key ?? "",
    created_at: createdAt.toISOString(),
  }),
  pageSize: 20,
  examples: { create: { name: "my-keypair" } },
  filters: z.object({}),
  toQuery: () => ({}),
  create: {
    body: z.strictObject({ name: nameSchema, public_key: keyPairSpec.shape.public_key.optional() }),
    toInput: ({ name, public_key = null }) => ({ name, spec: { public_key } }),
  },
  deletes: true,
});
