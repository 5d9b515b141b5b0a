// `npm run pack:agent [folder]`: a package of the agent and its command line alone, for `npm install` on a host, with the
// dependencies that they import and no others. Prints one JSON object; what is measured is without development packages.
import { execFileSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { buildSources, listFiles } from "./build.mjs";
import { root } from "./steps.mjs";

const folders = ["dist/agent", "dist/proto", "dist/sdk", "proto/gen"];
/** Asked for by name while it runs, where there is a libvirt. */
const optional = ["@unraid/libvirt"];

/** The files of the package, and its package.json. */
export function describeAgentPackage() {
  // Translated code, and what the agent reads beside it: all but types and maps.
  const files = folders.flatMap(listFiles).filter((file) => !/\.(ts|map|proto)$/.test(file));
  const {
    name,
    version,
    description,
    license,
    type,
    engines,
    bin,
    imports,
    exports,
    dependencies,
    optionalDependencies,
  } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8"));
  const imported = new Set(files.filter((file) => file.endsWith(".js")).flatMap(packagesOf));
  const used = Object.entries(dependencies).filter(([name]) => imported.has(name));
  const extra = Object.entries(optionalDependencies).filter(([name]) => optional.includes(name));
  const manifest = {
    ...{ name: `${name}-agent`, version, description: `${description}: the agent`, license, type, engines },
    ...{ bin, imports, exports, files: folders },
    dependencies: Object.fromEntries(used),
    optionalDependencies: Object.fromEntries(extra),
  };
  return { files, manifest };
}

function packagesOf(file) {
  const text = readFileSync(path.join(root, file), "utf8");
  const names = text.matchAll(/(?:from|import)\s*\(?\s*["']((?:@[^/"']+\/)?[^./#"'][^/"']*)[^"']*["']/g);
  return [...names].map(([, name]) => name);
}

/** Bytes of the packages in node_modules that these need, each once. */
export function measureDependencies(names) {
  const seen = new Set();
  const visit = (name, from) => {
    const folder = findPackage(name, from);
    if (folder === undefined || seen.has(folder)) return;
    seen.add(folder);
    const { dependencies = {}, optionalDependencies = {} } = JSON.parse(
      readFileSync(path.join(folder, "package.json"), "utf8"),
    );
    for (const each of Object.keys({ ...dependencies, ...optionalDependencies })) visit(each, folder);
  };
  for (const name of names) visit(name, root);
  return [...seen].reduce((sum, folder) => sum + bytesOf(folder), 0);
}

/** As Node looks for it; an optional one may not be there. */
function findPackage(name, from) {
  for (let at = from; ; at = path.dirname(at)) {
    const folder = path.join(at, "node_modules", name);
    if (existsSync(path.join(folder, "package.json"))) return folder;
    if (at === path.dirname(at)) return undefined;
  }
}

/** Without packages of its own, which are counted by themselves. */
function bytesOf(folder) {
  return readdirSync(folder, { withFileTypes: true })
    .filter(({ name }) => name !== "node_modules")
    .reduce((sum, entry) => {
      const at = path.join(folder, entry.name);
      return sum + (entry.isDirectory() ? bytesOf(at) : entry.isFile() ? statSync(at).size : 0);
    }, 0);
}

async function pack(destination) {
  await buildSources();
  const { files, manifest } = describeAgentPackage();
  const staging = mkdtempSync(path.join(tmpdir(), "skerry-pack-"));
  try {
    for (const file of [...files, "LICENSE"]) cpSync(path.join(root, file), path.join(staging, file));
    writeFileSync(path.join(staging, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);
    const args = ["pack", "--json", "--pack-destination", path.resolve(destination)];
    const [packed] = JSON.parse(
      execFileSync("npm", args, { cwd: staging, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }),
    );
    const names = Object.keys({ ...manifest.dependencies, ...manifest.optionalDependencies });
    return {
      file: path.join(destination, packed.filename),
      packed_bytes: packed.size,
      installed_bytes: packed.unpackedSize + measureDependencies(names),
    };
  } finally {
    rmSync(staging, { recursive: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.stdout.write(`${JSON.stringify(await pack(process.argv[2] ?? "."))}\n`);
}
