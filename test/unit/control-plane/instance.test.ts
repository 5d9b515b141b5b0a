/** What an instance's phase is and what it needs next, as tables. */
import t from "tap";
import type { Decision, Incarnation, OperationRecord, View } from "#cp/engine/controller.ts";
import { decideInstance, deriveInstanceObserved } from "#cp/resources/instance/instance.decide.ts";
import {
  instance,
  instancePhases,
  type Instance,
  type InstancePhase,
  type InstanceSpec,
  type InstanceStatus,
} from "#cp/resources/instance/instance.resource.ts";
import { toHostname } from "#cp/resources/instance/machine-spec.ts";

const now = Date.parse("2026-11-21T00:00:00Z");
const MiB = 1024 ** 2;
const spec = instance.spec.parse({ image: "micro" });

const status = (change: Partial<InstanceStatus> = {}): InstanceStatus => ({
  host_id: "host-a",
  state: "running",
  reason: "",
  message: "",
  cpus: spec.cpus,
  memory_bytes: spec.memory_bytes,
  disk_bytes: spec.disk_bytes,
  pending_restart: [],
  guest_address: "10.0.0.2",
  forwards: [],
  started_at: null,
  restarts: 0,
  crashes: 0,
  driver: "fake",
  acceleration: "none",
  image_bytes_done: 0,
  image_bytes_total: 0,
  migration: null,
  ...change,
});

const resource = (change: Partial<Instance> = {}): Instance => ({
  id: "vm-1",
  kind: "instance",
  project: "root",
  name: "web",
  labels: {},
  generation: 3,
  observedGeneration: 3,
  desired: spec,
  observed: status(),
  refs: { image: "img-1" },
  placement: undefined,
  problem: undefined,
  phase: "running",
  hostId: "host-a",
  revision: 1,
  schemaVersion: 1,
  owner: "",
  createdAt: new Date(now),
  updatedAt: new Date(now),
  deletingAt: undefined,
  ...change,
});

const problem = (generation: number, stuck = true) => ({
  reason: "NO_CAPACITY",
  message: "full",
  stuck,
  generation,
  since: "",
});
const desire = (change: Partial<InstanceSpec>): InstanceSpec => ({ ...spec, ...change });
const off = desire({ power: "off" });

const phases: readonly [string, Partial<Instance>, InstancePhase][] = [
  ["new", { observed: undefined, hostId: undefined }, "pending"],
  ["placed", { observed: undefined }, "building"],
  ["fetching its image", { observed: status({ state: "preparing" }) }, "building"],
  ["starting", { observed: status({ state: "starting" }) }, "building"],
  ["running", {}, "running"],
  ["running, asked to grow", { generation: 4, desired: desire({ cpus: 2 }) }, "running"],
  ["running, asked to stop", { generation: 4, desired: off }, "stopping"],
  ["shutting down", { generation: 4, desired: off, observed: status({ state: "stopping" }) }, "stopping"],
  ["shutting down to restart", { generation: 4, observed: status({ state: "stopping" }) }, "building"],
  ["stopped as asked", { desired: off, observed: status({ state: "stopped" }) }, "stopped"],
  ["stopped by its guest", { observed: status({ state: "stopped" }) }, "stopped"],
  ["stopped, asked to start", { generation: 4, observed: status({ state: "stopped" }) }, "building"],
  [
    "failed before, asked again",
    { generation: 4, observed: status({ state: "failed", reason: "X" }) },
    "building",
  ],
  ["failed on its host", { observed: status({ state: "failed", reason: "CRASH_LOOP" }) }, "failed"],
  ["stuck before it was placed", { observed: undefined, hostId: undefined, problem: problem(3) }, "failed"],
  ["unstuck by its owner", { observed: undefined, hostId: undefined, problem: problem(2) }, "pending"],
  ["tried again", { observed: undefined, hostId: undefined, problem: problem(3, false) }, "pending"],
  ["running, could not grow", { generation: 4, problem: problem(4) }, "running"],
  ["being deleted", { deletingAt: new Date(now) }, "deleting"],
];

t.test("phases", async (t) => {
  for (const [what, change, expected] of phases) t.equal(instance.phase(resource(change)), expected, what);
});

t.test("every phase says what may follow, and only phases follow", async (t) => {
  for (const phase of instancePhases) {
    for (const next of instance.next[phase]) t.ok(instancePhases.includes(next), `${phase} -> ${next}`);
  }
  t.ok(instance.next.running.includes("stopping"));
  t.notOk(instance.next.deleted.length, "nothing comes after the end");
});

const incarnation = (change: Partial<Incarnation> = {}): Incarnation => ({
  hostId: "host-a",
  seq: 1,
  epoch: 1,
  acceptedGeneration: 3,
  generation: 3,
  state: "running",
  observed: { ...status() },
  connected: true,
  updatedAt: new Date(now),
  ...change,
});

const promise = { hostId: "host-a", cpus: 1, memoryBytes: 512 * MiB, diskBytes: 4096 * MiB };
const image = { ...resource(), id: "img-1", kind: "image", phase: "available" };

const view = (change: Partial<View<Instance>> = {}): View<Instance> => ({
  resource: resource(),
  incarnations: [incarnation()],
  reserved: [promise],
  operation: undefined,
  lastOperation: undefined,
  references: { image },
  requests: [],
  dependents: 0,
  ...change,
});

const undone = (change: Partial<OperationRecord>): OperationRecord => ({
  id: "op-1",
  name: "create",
  version: 1,
  status: "undone",
  input: { attempt: 1, exclude: [], generation: 3 },
  error: { code: "exhausted", reason: "HOST_DISK_FULL", message: "the disk is full" },
  attempt: 0,
  createdAt: new Date(now),
  outputs: { place: { host_id: "host-a" } },
  done: [],
  undone: ["place", "provision"],
  ...change,
});

const unplaced = {
  resource: resource({ hostId: undefined, observed: undefined, observedGeneration: 0 }),
  incarnations: [],
  reserved: [],
};
const behind = resource({ generation: 4 });

const decisions: readonly [string, Partial<View<Instance>>, Partial<Decision>][] = [
  ["at rest", {}, { do: "settle" }],
  ["new", unplaced, { do: "start", operation: "create", input: { attempt: 1, exclude: [], generation: 3 } }],
  [
    "new, image on its way",
    { ...unplaced, references: { image: { ...image, phase: "pending" } } },
    { do: "wait" },
  ],
  [
    "new, image cannot be had",
    { ...unplaced, references: { image: { ...image, phase: "failed" } } },
    { do: "stick", reason: "IMAGE_FAILED" },
  ],
  ["new, image gone", { ...unplaced, references: {} }, { do: "stick", reason: "IMAGE_GONE" }],
  [
    "refused by a host: another is tried",
    { ...unplaced, lastOperation: undone({}) },
    { do: "start", input: { attempt: 2, exclude: ["host-a"], generation: 3 } },
  ],
  [
    "refused too often",
    { ...unplaced, lastOperation: undone({ input: { attempt: 3, exclude: [], generation: 3 } }) },
    { do: "stick", reason: "HOST_DISK_FULL" },
  ],
  [
    "failed for a reason that another host shares",
    {
      ...unplaced,
      lastOperation: undone({ error: { code: "invalid", reason: "IMAGE_CORRUPT", message: "" } }),
    },
    { do: "stick", reason: "IMAGE_CORRUPT" },
  ],
  [
    "failed, then changed by its owner",
    { ...unplaced, lastOperation: undone({ input: { attempt: 3, exclude: [], generation: 2 } }) },
    { do: "start", input: { attempt: 1, exclude: [], generation: 3 } },
  ],
  ["changed", { resource: behind }, { do: "act", action: "ensure" }],
  [
    "accepted, under way",
    { resource: behind, incarnations: [incarnation({ acceptedGeneration: 4 })] },
    { do: "wait" },
  ],
  [
    "accepted, failed",
    { resource: behind, incarnations: [incarnation({ acceptedGeneration: 4, state: "failed" })] },
    { do: "stick", reason: "MACHINE_FAILED" },
  ],
  [
    "machine lost",
    { resource: behind, incarnations: [incarnation({ acceptedGeneration: 4, state: "absent" })] },
    { do: "stick", reason: "MACHINE_LOST" },
  ],
  [
    "machine lost, asked to start",
    { resource: behind, incarnations: [incarnation({ state: "absent" })] },
    { do: "act", action: "ensure" },
  ],
  [
    "grown beyond its promise",
    { resource: resource({ generation: 4, desired: desire({ cpus: 2 }) }) },
    { do: "start", operation: "resize" },
  ],
  [
    "could not grow",
    {
      resource: resource({ generation: 4, desired: desire({ cpus: 2 }) }),
      lastOperation: undone({
        name: "resize",
        input: { generation: 4 },
        error: { code: "exhausted", reason: "NO_CAPACITY", message: "" },
      }),
    },
    { do: "stick", reason: "NO_CAPACITY" },
  ],
  ["shrunk", { reserved: [{ ...promise, cpus: 4 }] }, { do: "act", action: "trim" }],
  [
    "shrunk, the machine not yet",
    {
      reserved: [{ ...promise, cpus: 4 }],
      incarnations: [incarnation({ observed: { ...status({ cpus: 4 }) } })],
    },
    { do: "settle" },
  ],
  [
    "moved, its old host still has it",
    {
      incarnations: [incarnation(), incarnation({ hostId: "host-b" })],
      reserved: [promise, { ...promise, hostId: "host-b" }],
    },
    { do: "act", action: "removeStale", input: { host_id: "host-b" } },
  ],
  [
    "moved, its old host has given it up and is still promised",
    { reserved: [promise, { ...promise, hostId: "host-b" }] },
    { do: "act", action: "release", input: { host_id: "host-b" } },
  ],
  ["deleted", { resource: resource({ deletingAt: new Date(now) }) }, { do: "act", action: "remove" }],
  [
    "deleted before it was placed",
    { ...unplaced, resource: { ...unplaced.resource, deletingAt: new Date(now) } },
    { do: "act", action: "erase" },
  ],
];

t.test("decisions", async (t) => {
  for (const [what, change, expected] of decisions)
    t.match(decideInstance(view(change), now), expected, what);
});

t.test("the owner's word is the status; a copy elsewhere is not", async (t) => {
  const elsewhere = incarnation({ hostId: "host-b", generation: 9 });
  t.equal(deriveInstanceObserved(resource(), [elsewhere], []), undefined);
  const derived = deriveInstanceObserved(resource(), [elsewhere, incarnation()], []);
  t.equal(derived?.generation, 3);
  t.equal(derived?.observed.host_id, "host-a");
  const lost = deriveInstanceObserved(resource(), [incarnation({ state: "absent" })], []);
  t.match(lost?.observed, { state: "failed", reason: "MACHINE_LOST" });
});

t.test("a disk grows only", async (t) => {
  t.throws(() => instance.validate?.(desire({ disk_bytes: spec.disk_bytes / 2 }), spec), /cannot shrink/);
  t.doesNotThrow(() => instance.validate?.(desire({ disk_bytes: spec.disk_bytes * 2 }), spec));
});

t.test("host names", async (t) => {
  const names = [
    ["web-1", "web-1"],
    ["Web Server", "web-server"],
    ["--x--", "x"],
    ["日本", "vm-1"],
    [`${"a".repeat(62)}-b`, "a".repeat(62)],
  ] as const;
  for (const [name, expected] of names) t.equal(toHostname(name, "vm-1"), expected);
});
