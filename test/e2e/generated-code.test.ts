/** The generator itself, a program from elsewhere, makes of the sources what is in the checkout. */
import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import t from "tap";
import { root } from "#cp/local/programs.ts";

await t.test("a fresh generation gives the very same files, wherever the generator can be had", async (t) => {
  const fresh = t.testdir({});
  const generation = await generate(fresh);
  if (!generation.ran) {
    // Without a network the comparison of declarations above is all there is; it needs no tool.
    t.match(generation.why, /\S/, "the generator says why it did not run");
    return;
  }
  const committed = path.join(root, "proto", "gen");
  const names = await listFiles(committed);
  t.strictSame(await listFiles(fresh), names);
  for (const name of names) {
    const [old, now] = await Promise.all(
      [committed, fresh].map((folder) => readFile(path.join(folder, name), "utf8")),
    );
    t.equal(now, old, `${name}: run \`npm run generate\``);
  }
});

async function listFiles(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)))
    .sort();
}

/** Runs the script `generate` of package.json with another output folder. */
async function generate(folder: string): Promise<{ ran: true } | { ran: false; why: string }> {
  const { scripts } = JSON.parse(await readFile(path.join(root, "package.json"), "utf8")) as {
    scripts: { generate: string };
  };
  const [program = "", ...args] = scripts.generate.replace("proto/gen", folder).split(" ").filter(Boolean);
  // Offline, npx would ask for minutes before it gave up.
  const env = { ...process.env, npm_config_fetch_retries: "0", npm_config_prefer_offline: "true" };
  try {
    await promisify(execFile)(program, args, { cwd: root, env, timeout: 90_000 });
    return { ran: true };
  } catch (error) {
    return { ran: false, why: (error as { stderr?: string }).stderr ?? String(error) };
  }
}
