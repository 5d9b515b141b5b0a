/**
 * Files that take long start first: one that is started last keeps the whole run waiting while a core is idle. Order
 * is all that this list decides; a file that is not in it starts after those that are.
 */
const long: readonly string[] = [];

/** The files in the order in which to start them. */
export function longestFirst(files: readonly string[]): string[] {
  const rank = (file: string) => {
    const place = long.indexOf(file);
    return place < 0 ? long.length : place;
  };
  return files.toSorted((a, b) => rank(a) - rank(b));
}
