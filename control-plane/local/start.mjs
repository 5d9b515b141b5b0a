// What `npm start`, `npm run dev`, `npm run demo` and `npm test` run. It needs nothing but Node: it brings the rest.
//
//   node control-plane/local/start.mjs                 set up, build, run the cloud in this terminal
//   node control-plane/local/start.mjs --dev           the same from the sources, restarted on change
//   node control-plane/local/start.mjs --demo          set up, build, show a machine move and clear up
//   node control-plane/local/start.mjs --test [file..] set up, build, run the tests
//   node control-plane/local/start.mjs --setup-only    set up
import path from "node:path";
import { buildMicro } from "./setup/micro.mjs";
import { buildSources, runBuilt, runSource } from "./setup/build.mjs";
import { buildTests, builtTests } from "./setup/build-tests.mjs";
import { ensureNpmPackages } from "./setup/npm-packages.mjs";
import { requireNode } from "./setup/node-version.mjs";
import {
  containerPrograms,
  ensureSystemPrograms,
  libvirtPrograms,
  neededPrograms,
  offerSystemPrograms,
} from "./setup/system-programs.mjs";
import { ensureTapPlugins } from "./setup/tap.mjs";
import { root, SetupError, runToEnd } from "./setup/steps.mjs";

const [mode, ...rest] = process.argv.slice(2).some((argument) => argument.startsWith("--"))
  ? process.argv.slice(2)
  : ["--start", ...process.argv.slice(2)];

// Fake machines and real ones do not share a data folder.
const home = path.resolve(root, process.env.SKERRY_HOME ?? (mode === "--dev" ? ".skerry-dev" : ".skerry"));
// Tests share one build of the guest per clone, wherever their data folders are.
const testMicro = path.join(root, "node_modules", ".cache", "skerry", "micro");

const modes = {
  "--start": async () => {
    await buildSources();
    const micro = await buildMicro(path.join(home, "cache", "micro"), runBuilt);
    return runToEnd(runBuilt("control-plane/local/main", rest), {
      SKERRY_HOME: home,
      SKERRY_MICRO_DIR: micro,
    });
  },
  "--dev": async () => {
    const micro = await buildMicro(path.join(home, "cache", "micro"), runSource);
    return runToEnd(runSource("control-plane/local/main", ["--dev", ...rest]), {
      SKERRY_HOME: home,
      SKERRY_MICRO_DIR: micro,
    });
  },
  "--demo": async () => {
    await buildSources();
    const micro = await buildMicro(testMicro, runBuilt);
    return runToEnd(runBuilt("control-plane/local/demo/main", rest), { SKERRY_MICRO_DIR: micro });
  },
  "--test": async () => {
    await ensureTapPlugins();
    await buildSources();
    await buildTests();
    const micro = await buildMicro(testMicro, runBuilt);
    const [node, ...run] = runBuilt("test/support/run", rest);
    return runToEnd([node, `--conditions=${builtTests}`, ...run], { SKERRY_MICRO_DIR: micro });
  },
  "--setup-only": async () => {
    await ensureTapPlugins();
    await buildMicro(testMicro, runSource);
    return 0;
  },
};

try {
  const run = modes[mode];
  if (!run) throw new SetupError(`unknown option ${mode}; known are ${Object.keys(modes).join(", ")}`);
  requireNode();
  // The libvirt driver is tested here, but used only where an agent's settings say so.
  const tests = mode === "--test" || mode === "--setup-only";
  const tested = tests ? [...libvirtPrograms(), ...containerPrograms()] : [];
  await ensureSystemPrograms([...neededPrograms(), ...tested]);
  if (!tests) await offerSystemPrograms(containerPrograms(), "The cloud starts without containers");
  await ensureNpmPackages(tests ? ["node_modules/@unraid/libvirt"] : []);
  process.exitCode = await run();
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  process.stderr.write(`error: ${error.message}\n`);
  process.exitCode = 1;
}
