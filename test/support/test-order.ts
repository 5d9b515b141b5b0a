/**
 * Files that take long start first: one that is started last keeps the whole run waiting while a core is idle. Order
 * is all that this list decides; a file that is not in it starts after those that are.
 */
const longest: readonly string[] = [
  "test/integration/migration-failures.test.ts",
  "test/integration/local-cloud.test.ts",
  "test/integration/cli-cloud.test.ts",
  "test/dialects/workloads.test.ts",
  "test/dialects/fuzz.test.ts",
  "test/integration/engine.test.ts",
  "test/dialects/authorisation.test.ts",
  "test/dialects/contract/contract.test.ts",
  "test/integration/agent-migration.test.ts",
  "test/integration/http-hostile.test.ts",
  "test/integration/agent-process.test.ts",
  "test/integration/postgres.test.ts",
  "test/integration/listener.test.ts",

  "test/e2e/qemu-convergence.test.ts",
  "test/e2e/demo.test.ts",
  "test/faults/migration-qemu.test.ts",
  "test/e2e/migration.test.ts",
  "test/e2e/qemu-driver.test.ts",
  "test/faults/away.test.ts",
  "test/faults/control-plane-killed.test.ts",
  "test/faults/damage.test.ts",
  "test/e2e/libvirt-driver.test.ts",
  "test/faults/migration-storm.test.ts",
  "test/faults/migration-random.test.ts",
  "test/faults/agent-killed.test.ts",
  "test/e2e/micro.test.ts",
  "test/e2e/libvirt-migration.test.ts",
  "test/e2e/qemu-moving-back.test.ts",
];

/** The files in the order in which to start them. */
export function longestFirst(files: readonly string[]): string[] {
  const rank = (file: string) => {
    const place = longest.indexOf(file);
    return place < 0 ? longest.length : place;
  };
  return files.toSorted((a, b) => rank(a) - rank(b));
}
