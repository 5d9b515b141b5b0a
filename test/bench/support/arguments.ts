/** The whole number, 0 or more, that `--name` is followed by. Throws when something else follows it. */
export function numberOf(args: readonly string[], name: string, otherwise: number): number {
  const at = args.indexOf(`--${name}`);
  if (at < 0) return otherwise;
  const value = Number(args[at + 1]);
  if (Number.isInteger(value) && value >= 0 && args[at + 1] !== "") return value;
  throw new RangeError(`--${name} wants a number`);
}
