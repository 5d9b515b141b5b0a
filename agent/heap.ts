/** How V8 keeps this process's memory. */
import { setFlagsFromString } from "node:v8";

/**
 * Keeps the part of the heap for short-lived objects as small as it begins. What a move brings in lies outside of the
 * heap and is let go of only when that part is swept; grown to its usual size it would be swept so rarely that V8,
 * seeing so much memory held, marked its whole heap again and again instead. That was a third of the CPU time of a
 * destination. What has grown stays so: call it before the rest of the program is loaded.
 */
export function keepYoungGenerationSmall(): void {
  setFlagsFromString("--semi-space-growth-factor=1");
}
