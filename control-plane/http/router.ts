import { Fault } from "#kernel/fault.ts";
import { unstorable } from "./query.ts";
import type { Method, Params, Route, Surface } from "./route.ts";

interface Node {
  readonly children: Map<string, Node>;
  /** The child for any one segment; its name is the route's own. */
  any: Node | undefined;
  surface: Surface | undefined;
  routes: Map<string, { readonly route: Route; readonly names: readonly string[] }> | undefined;
}

export interface Match {
  /** Whose prefix the path is below. */
  readonly surface: Surface;
  readonly params: Params;
  readonly route: Route | undefined;
  /** Why there is no route. */
  readonly fault: Fault | undefined;
}

const noParams: Params = Object.freeze({});
const parameter = /^\{(\w+)\}$/;

const newNode = (): Node => ({ children: new Map(), any: undefined, surface: undefined, routes: undefined });

/**
 * Finds the API and the route of a path in one walk down a tree of segments. Literal segments win
 * over parameters; there is no backtracking, so a path costs its segments and no more.
 */
export class Router {
  readonly #root = newNode();
  readonly #fallback: Surface;

  /** @param fallback words the errors of paths below no prefix, and serves its own routes */
  constructor(surfaces: readonly Surface[], fallback: Surface) {
    this.#fallback = fallback;
    for (const surface of new Set([...surfaces, fallback])) {
      for (const prefix of surface.prefixes) this.#grow(prefix).node.surface = surface;
      for (const route of surface.routes) this.#add(route, surface.trailingSlash);
    }
  }

  match(method: string, path: string): Match {
    let node: Node | undefined = this.#root;
    let surface = this.#fallback;
    const captured: string[] = [];
    const segments = path.split("/").slice(1);
    for (const [index, segment] of segments.entries()) {
      if (segment === "" && surface.trailingSlash && index === segments.length - 1) break;
      const literal: Node | undefined = node.children.get(segment);
      if (!literal && segment !== "" && node.any) captured.push(segment);
      node = literal ?? (segment === "" ? undefined : node.any);
      if (!node) return { surface, params: noParams, route: undefined, fault: notFound() };
      surface = node.surface ?? surface;
    }
    if (!node.routes) return { surface, params: noParams, route: undefined, fault: notFound() };
    const found = node.routes.get(method === "HEAD" ? "GET" : method);
    if (!found) {
      return { surface, params: noParams, route: undefined, fault: notAllowed([...node.routes.keys()]) };
    }
    try {
      return { surface, params: nameParams(found.names, captured), route: found.route, fault: undefined };
    } catch {
      const fault = new Fault("invalid", "the path is not percent-encoded UTF-8 text that can be stored", {
        reason: "PATH_MALFORMED",
      });
      return { surface, params: noParams, route: undefined, fault };
    }
  }

  #add(route: Route, trailingSlash = false): void {
    const { node, names } = this.#grow(trailingSlash ? route.path.replace(/\/$/, "") : route.path);
    node.routes ??= new Map();
    const method: Method = route.method;
    if (node.routes.has(method)) throw new Error(`two routes for ${method} ${route.path}`);
    node.routes.set(method, { route, names });
  }

  #grow(path: string): { node: Node; names: string[] } {
    let node = this.#root;
    const names: string[] = [];
    for (const segment of path.split("/").slice(1)) {
      const name = parameter.exec(segment)?.[1];
      let next = name === undefined ? node.children.get(segment) : node.any;
      if (!next) {
        next = newNode();
        if (name === undefined) node.children.set(segment, next);
        else node.any = next;
      }
      if (name !== undefined) names.push(name);
      node = next;
    }
    return { node, names };
  }
}

function nameParams(names: readonly string[], captured: readonly string[]): Params {
  if (names.length === 0) return noParams;
  const params: Record<string, string> = {};
  names.forEach((name, i) => {
    const text = captured[i] ?? "";
    const decoded = text.includes("%") ? decodeURIComponent(text) : text;
    if (unstorable.test(decoded)) throw new URIError("a character that cannot be stored");
    params[name] = decoded;
  });
  return params;
}

const notFound = () => new Fault("notFound", "there is nothing at this path", { reason: "ROUTE_NOT_FOUND" });

const notAllowed = (allow: readonly string[]) =>
  new Fault("invalid", `this path takes ${allow.join(", ")}`, {
    reason: "METHOD_NOT_ALLOWED",
    detail: { allow: [...allow] },
  });
