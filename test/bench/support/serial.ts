/** The moment at which a guest's first byte arrives on its serial port, seen in QEMU's own log of it. */
import { stat } from "node:fs/promises";
import { until } from "#test/support/until.ts";

const bootLimitMs = 120_000;

/** Resolves when the log holds something; it need not be there yet. */
export async function firstSerialByte(consoleLog: string): Promise<void> {
  await until(async () => (await sizeOf(consoleLog)) > 0, bootLimitMs);
}

async function sizeOf(file: string): Promise<number> {
  return stat(file).then(
    ({ size }) => size,
    () => 0, // not made yet
  );
}
