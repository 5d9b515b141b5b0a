/** How V8 keeps this process's memory. Its flags are one for the process, so who needs one changed is counted. */
import { setFlagsFromString } from "node:v8";

/**
 * Keeps the part of the heap for short-lived objects from growing, until it is disposed of. What a move brings in lies
 * outside of the heap and is let go of only when that part is swept; grown to its usual size it would be swept more
 * rarely. What has grown stays so until V8 finds little to do; an agent with much to do is quicker with more.
 */
export const keepYoungGenerationSmall = holding("semi-space-growth-factor", { usual: 2, held: 1 });

/**
 * Lets the heap become four times as large as what lives in it before V8 marks it, until it is disposed of. What a move
 * brings in counts as well until it is swept, dozens of megabytes; and V8 allows a process that had little to do, as an
 * agent before a move, so little more than lives that it marked the whole heap for each 16 MB: a fourth of the CPU time
 * of a destination.
 */
export const markSeldom = holding("heap-growing-percent", { usual: 0, held: 300 });

function holding(flag: string, values: { readonly usual: number; readonly held: number }): () => Disposable {
  let holders = 0;
  const set = (value: number) => setFlagsFromString(`--${flag}=${String(value)}`);
  return () => {
    if (holders++ === 0) set(values.held);
    return {
      [Symbol.dispose]() {
        if (--holders === 0) set(values.usual);
      },
    };
  };
}
