/** What an agent asks of V8 holds: how large the room for short-lived objects becomes, and how often all is marked. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import t from "tap";
import { nodeProgram } from "#cp/local/programs.ts";

/** Makes objects that live for a little, and tells how large the room for them has become. */
const makeObjects = `
  import { getHeapSpaceStatistics } from "node:v8";
  import { keepYoungGenerationSmall } from "#agent/heap.ts";
  const first = keepYoungGenerationSmall();
  const second = keepYoungGenerationSmall();
  first[Symbol.dispose]();
  if (process.argv[1] !== "held") second[Symbol.dispose]();
  const kept = [];
  for (let turn = 0; turn < 600_000; turn++) kept[turn % 60_000] = { turn };
  console.log(getHeapSpaceStatistics().find(({ space_name }) => space_name === "new_space").space_size);
`;

/** Brings 600 MB in, in short-lived buffers, beside what lives in the heap; tells how often that was marked. */
const bringIn = `
  import { constants, PerformanceObserver } from "node:perf_hooks";
  import { setImmediate } from "node:timers/promises";
  import { markSeldom } from "#agent/heap.ts";
  let marked = 0;
  const isFull = ({ detail }) => detail.kind === constants.NODE_PERFORMANCE_GC_MAJOR;
  const observer = new PerformanceObserver((seen) => (marked += seen.getEntries().filter(isFull).length));
  const living = Array.from({ length: 200_000 }, (_, index) => ({ index }));
  const held = markSeldom();
  if (process.argv[1] !== "held") held[Symbol.dispose]();
  gc(); // from the first time on there is a measure of what lives
  observer.observe({ entryTypes: ["gc"] });
  for (let turn = 0; turn < 40_000; turn++) {
    Buffer.allocUnsafeSlow(16_384);
    if (turn % 16 === 0) await setImmediate();
  }
  await setImmediate();
  console.log(living.length > 0 ? marked : NaN);
`;

/** As a program of ours runs, from its source or built. */
const [node, ...flags] = nodeProgram("agent/heap").slice(0, -1) as [string, ...string[]];

async function tell(work: string, options: readonly string[], ...args: readonly string[]): Promise<number> {
  const argv = [...flags, ...options, "--input-type=module", "--eval", work, ...args];
  return Number((await promisify(execFile)(node, argv)).stdout);
}

await t.test("the young generation stays as small as it begins", async (t) => {
  const [usual, small] = await Promise.all([tell(makeObjects, []), tell(makeObjects, [], "held")]);
  t.ok(usual > 2 * small, `let go of by all it grows to ${usual} bytes; while one holds it, it is ${small}`);
});

await t.test("the whole heap is marked seldom", async (t) => {
  // V8 gives little room then, as to a process that had little to do.
  const options = ["--optimize-for-size", "--expose-gc"];
  const [usual, seldom] = await Promise.all([tell(bringIn, options), tell(bringIn, options, "held")]);
  t.ok(usual > 2 * seldom, `usually it is marked ${usual} times; while somebody holds that, ${seldom} times`);
});
