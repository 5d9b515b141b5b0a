/** What an agent asks of V8 holds: the part of the heap for short-lived objects stays as small as it begins. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import t from "tap";

/** Makes objects that live for a little, and tells how large the room for them has become. */
const work = `
  import { getHeapSpaceStatistics } from "node:v8";
  import { keepYoungGenerationSmall } from "#agent/heap.ts";
  const first = keepYoungGenerationSmall();
  const second = keepYoungGenerationSmall();
  first[Symbol.dispose]();
  if (process.argv[1] !== "small") second[Symbol.dispose]();
  const kept = [];
  for (let turn = 0; turn < 600_000; turn++) kept[turn % 60_000] = { turn };
  console.log(getHeapSpaceStatistics().find(({ space_name }) => space_name === "new_space").space_size);
`;
const flags = ["--conditions=development", "--import=tsx", "--input-type=module", "--eval", work];

async function youngBytes(...args: readonly string[]): Promise<number> {
  return Number((await promisify(execFile)(process.execPath, [...flags, ...args])).stdout);
}

const [usual, small] = await Promise.all([youngBytes(), youngBytes("small")]);
t.ok(usual > 2 * small, `let go of by all it grows to ${usual} bytes; while one holds it, it is ${small}`);
