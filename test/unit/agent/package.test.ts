/** What `npm run pack:agent` puts into the package: all that an agent needs, and nothing of the control plane's. */
import path from "node:path";
import { pathToFileURL } from "node:url";
import t from "tap";
import { root } from "#cp/local/programs.ts";

interface Packing {
  describeAgentPackage(): {
    readonly files: readonly string[];
    readonly manifest: {
      readonly dependencies: Readonly<Record<string, string>>;
      readonly optionalDependencies: Readonly<Record<string, string>>;
      readonly bin: Readonly<Record<string, string>>;
    };
  };
  measureDependencies(names: readonly string[]): number;
}

const script = path.join(root, "control-plane/local/setup/pack-agent.mjs");
const packing = (await import(pathToFileURL(script).href)) as Packing;

void t.test("the agent's package", async (t) => {
  const { files, manifest } = packing.describeAgentPackage();
  for (const file of [
    "dist/agent/main.js",
    "dist/agent/images/micro/rootfs/init",
    manifest.bin["skerry"] ?? "",
  ])
    t.ok(files.includes(file), file);
  t.same(
    files.filter((file) => /control-plane|^dist\/test|\.ts$|\.map$/.test(file)),
    [],
  );
  const { dependencies, optionalDependencies } = manifest;
  for (const needed of ["@connectrpc/connect-node", "zstd-napi", "lz4", "systeminformation", "commander"])
    t.ok(dependencies[needed], needed);
  for (const other of ["koa", "pg", "zod", "typescript", "tsx"]) t.notOk(dependencies[other], other);
  const bytes = packing.measureDependencies(Object.keys({ ...dependencies, ...optionalDependencies }));
  t.ok(
    bytes > 1e6 && bytes < 55e6,
    `${String(Math.round(bytes / 1e6))} MB, to be below 60 with the agent itself`,
  );
});
