/**
 * The little of XML that libvirt's descriptions use: elements, attributes and text; no comments kept, no entities of
 * one's own. Elements are plain data, so that what is built can be compared and what is read can be searched.
 */
import { Fault } from "#kernel/fault.ts";

export interface Element {
  readonly tag: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: readonly (Element | string)[];
}

/** An element; attributes without a value are left out. */
export function element(
  tag: string,
  attributes: Readonly<Record<string, string | number | undefined>> = {},
  ...children: readonly (Element | string)[]
): Element {
  const present = Object.entries(attributes).filter(([, value]) => value !== undefined);
  return {
    tag,
    attributes: Object.fromEntries(present.map(([key, value]) => [key, String(value)])),
    children,
  };
}

/** The element as text, one line for each that holds no text. */
export function render({ tag, attributes, children }: Element, indent = ""): string {
  const open = [tag, ...Object.entries(attributes).map(([key, value]) => `${key}="${escape(value)}"`)].join(
    " ",
  );
  if (children.length === 0) return `${indent}<${open}/>\n`;
  if (children.every((child) => typeof child === "string")) {
    return `${indent}<${open}>${children.map(escape).join("")}</${tag}>\n`;
  }
  const inner = children.map((child) =>
    typeof child === "string" ? escape(child) : render(child, `${indent}  `),
  );
  return `${indent}<${open}>\n${inner.join("")}${indent}</${tag}>\n`;
}

const entities: Readonly<Record<string, string>> = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };

function escape(text: string): string {
  // XML has no way at all to write the other control characters.
  if (/(?![\t\n\r])\p{Cc}/u.test(text)) {
    throw new Fault("invalid", "a control character cannot be given to the hypervisor", {
      reason: "TEXT_INVALID",
    });
  }
  const name = (character: string) => Object.keys(entities).find((key) => entities[key] === character);
  return text.replace(/[<>&"']/g, (found) => `&${name(found) ?? ""};`).replace(/[\t\n\r]/g, numbered);
}

function numbered(character: string): string {
  return `&#${String(character.charCodeAt(0))};`;
}

function unescape(text: string): string {
  return text.replace(
    /&(?:#x([0-9a-fA-F]+)|#(\d+)|(\w+));/g,
    (whole, hex?: string, decimal?: string, name = "") => {
      if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16));
      if (decimal !== undefined) return String.fromCodePoint(Number(decimal));
      return entities[name as string] ?? whole;
    },
  );
}

const token =
  /<[?!][\s\S]*?>|<\/[^>]*>|<([^\s/>]+)((?:\s+[^\s=/>]+\s*=\s*(?:"[^"]*"|'[^']*'))*)\s*(\/?)>|([^<]+)/g;

/** Reads what libvirt wrote. Throws `internal` when it is no element. */
export function parse(text: string): Element {
  const root: { children: (Element | string)[] } = { children: [] };
  const open = [root];
  for (const [found, tag, attributes = "", closed, words] of text.matchAll(token)) {
    const parent = open.at(-1) ?? root;
    if (words !== undefined) {
      if (words.trim() !== "") parent.children.push(unescape(words));
    } else if (tag !== undefined) {
      const inner: (Element | string)[] = [];
      parent.children.push({ tag, attributes: readAttributes(attributes), children: inner });
      if (closed === "") open.push({ children: inner });
    } else if (found.startsWith("</")) open.pop();
  }
  const first = root.children.find((child) => typeof child !== "string");
  if (first !== undefined && open.length === 1) return first;
  throw new Fault("internal", "libvirt's answer cannot be read", { cause: new Error(text.slice(0, 400)) });
}

function readAttributes(text: string): Record<string, string> {
  const pair = /([^\s=]+)\s*=\s*(?:"([^"]*)"|'([^']*)')/g;
  return Object.fromEntries(
    Array.from(text.matchAll(pair), ([, key = "", double, single]) => [
      key,
      unescape(double ?? single ?? ""),
    ]),
  );
}

/** The elements along a path of tags below this one. */
export function select(from: Element, ...path: readonly string[]): readonly Element[] {
  return path.reduce<readonly Element[]>(
    (found, tag) => found.flatMap(({ children }) => children.filter((child) => isNamed(child, tag))),
    [from],
  );
}

/** The text of the first element along a path; empty when there is none. */
export function textAt(from: Element, ...path: readonly string[]): string {
  return (
    select(from, ...path)[0]
      ?.children.filter((child) => typeof child === "string")
      .join("") ?? ""
  );
}

function isNamed(child: Element | string, tag: string): child is Element {
  return typeof child !== "string" && child.tag === tag;
}
