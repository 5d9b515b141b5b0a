/**
 * Loaded before each test file. tap has every program that a test starts load tap's own hooks, for a coverage that
 * nobody asks for here; starting one takes twice the time with them.
 */
import { createRequire } from "node:module";

const hooks = createRequire(import.meta.url)("process-on-spawn") as { removeAllListeners(): void };
hooks.removeAllListeners();
