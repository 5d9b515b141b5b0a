/** What is believed of what a host says of itself. */
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { HostFactsSchema } from "#gen/skerry/agent/v1/host_pb.js";
import { sameHostStatus, toHostStatus } from "#cp/engine/host-facts.ts";
import type { HostStatus } from "#cp/resources/host/host.resource.ts";

const capacity = { cpus: 4, memoryBytes: 8n << 30n, diskBytes: 100n << 30n };
const gpu = (name: string) => ({ device: `v.test/gpu=${name}`, vendor: "v.test", model: "" });
const factsOf = (gpus: readonly ReturnType<typeof gpu>[], engine = "podman") =>
  create(HostFactsSchema, { capacity, containers: { engine, version: "4.3.1", gpus: [...gpus] } });

await t.test("GPUs: each once, only where containers run, and no more than anybody has", async (t) => {
  const gpusOf = (...given: Parameters<typeof factsOf>) => toHostStatus(factsOf(...given)).containers?.gpus;
  t.same(gpusOf([gpu("0"), gpu("1"), gpu("0")]), [gpu("0"), gpu("1")]);
  t.equal(gpusOf([gpu("0")], ""), undefined);
  const liar = toHostStatus(factsOf(Array.from({ length: 257 }, (_, n) => gpu(String(n)))));
  t.match(liar, { doubts: ["it says that it has 257 gpus"], capacity: { cpus: 0 } }, "it is given nothing");
  t.equal(liar.containers?.gpus, undefined);
});

await t.test("the database's order of keys is no change", async (t) => {
  const status = toHostStatus(factsOf([gpu("0")]));
  const { device, vendor, model } = gpu("0");
  const stored = { ...status, containers: { ...status.containers, gpus: [{ model, device, vendor }] } };
  t.ok(sameHostStatus(stored as HostStatus, status));
  t.notOk(sameHostStatus(stored as HostStatus, toHostStatus(factsOf([gpu("1")]))));
});
