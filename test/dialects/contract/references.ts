/** Reads the references: which fields their examples of an operation have. Facts for a comparison, nothing is kept. */

/** What a reference shows of one operation, in paths of fields such as `data.flavor.name`. */
export interface Shown {
  readonly query: Set<string>;
  readonly body: Set<string>;
  readonly answer: Set<string>;
}

const requestLine = /^(GET|POST|PUT|PATCH|DELETE) (\S+)/;
/** Fenced blocks, headings, and items of lists that begin with a name. */
const piece = /^```\w*\n([\s\S]*?)^```|^#{1,6} .*$|^- `(\w+)` - /gm;

/**
 * @param base what stands before the paths that the reference writes
 * @param close the end of its paths, where it is not always written
 */
export function readReference(text: string, base: string, close = ""): Map<string, Shown> {
  const operations = new Map<string, Shown>();
  const shownOf = (operation: string) => {
    const known = operations.get(operation);
    if (known) return known;
    const shown: Shown = { query: new Set(), body: new Set(), answer: new Set() };
    operations.set(operation, shown);
    return shown;
  };
  let current: Shown | undefined;
  for (const [all, block, parameter] of text.matchAll(piece)) {
    if (parameter !== undefined) current?.query.add(parameter);
    else if (block === undefined) current = all.startsWith("#### ") ? current : undefined;
    else {
      const lines = block.split("\n");
      const requests = lines.map((line) => requestLine.exec(line)).filter((match) => match !== null);
      for (const [, method = "", target = ""] of requests) {
        const [path = "", query = ""] = target.split("?");
        const whole = path.startsWith("/api/") ? path : `${base}${path}`;
        current = shownOf(`${method} ${whole.endsWith("/") ? whole : `${whole}${close}`}`);
        for (const name of new URLSearchParams(query).keys()) current.query.add(name);
      }
      const json = jsonIn(block);
      if (json === undefined || !current) continue;
      const into = requests.length > 0 ? current.body : current.answer;
      for (const path of fieldsOf(json)) into.add(path);
    }
  }
  return operations;
}

/** The JSON at the end of a block; what the reference leaves out is left out. */
function jsonIn(block: string): unknown {
  const start = block.search(/^[{[]/m);
  if (start < 0) return undefined;
  const text = block
    .slice(start)
    .replace("[...]", "[]")
    .replaceAll(/\/\*.*?\*\//g, "null");
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined; // an example in another language
  }
}

/** The paths of all fields of a value; an item of a list is called as its list. */
export function fieldsOf(value: unknown, prefix = ""): string[] {
  if (Array.isArray(value)) return value.flatMap((item) => fieldsOf(item, prefix));
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([name, inner]) => {
    if (name === "...") return [];
    const path = prefix === "" ? name : `${prefix}.${name}`;
    return [path, ...fieldsOf(inner, path)];
  });
}
