import { Fault, type Json } from "./fault.ts";
import { printableJson } from "./printable.ts";

export const logLevels = ["debug", "info", "warn", "error", "silent"] as const;
export type LogLevel = (typeof logLevels)[number];
export type LogFields = { readonly [key: string]: unknown };

/** One wide event per request, pass and step; `event` is a dotted name, the rest are its facts. */
export interface Logger {
  debug(event: string, fields?: LogFields): void;
  info(event: string, fields?: LogFields): void;
  warn(event: string, fields?: LogFields): void;
  error(event: string, fields?: LogFields): void;
  /** A logger that adds these fields to every line. */
  with(fields: LogFields): Logger;
}

export interface LoggerOptions {
  readonly level: LogLevel;
  /** Receives each line without its newline. */
  readonly write: (line: string) => void;
  readonly now?: () => number;
}

/** Makes a logger of JSON lines: `{"time","level","event",...fields}`. */
export function createLogger(options: LoggerOptions, bound: LogFields = {}): Logger {
  const threshold = logLevels.indexOf(options.level);
  const now = options.now ?? Date.now;
  const at = (level: LogLevel) => {
    if (logLevels.indexOf(level) < threshold) return () => undefined;
    return (event: string, fields: LogFields = {}) => {
      const line = { time: new Date(now()).toISOString(), level, event, ...bound, ...fields };
      const json = isPlain(line) ? JSON.stringify(line) : JSON.stringify(line, replaceErrors);
      options.write(printableJson(json));
    };
  };
  return {
    debug: at("debug"),
    info: at("info"),
    warn: at("warn"),
    error: at("error"),
    with: (fields) => createLogger(options, { ...bound, ...fields }),
  };
}

/** Long enough that a busy server's log costs next to nothing, short enough that nobody who follows it notices. */
const batchMs = 20;

/**
 * Writes lines to a stream in batches. On a pipe each write is a system call that waits, and wakes the reader: under load
 * these cost more than the lines. What is left when the process exits is written then; a `kill -9` takes the last moment's.
 */
export function batchLines(stream: { write(text: string): unknown }): (line: string) => void {
  let pending = "";
  const flush = () => {
    const text = pending;
    pending = "";
    if (text !== "") stream.write(text);
  };
  process.once("exit", flush);
  return (line) => {
    if (pending === "") setTimeout(flush, batchMs);
    pending += `${line}\n`;
  };
}

export const silentLogger: Logger = createLogger({ level: "silent", write: () => undefined });

/** Most lines hold words and numbers only, and JSON is many times as fast without a look at each value. */
function isPlain(line: LogFields): boolean {
  for (const name in line) {
    const value = line[name];
    if (typeof value === "bigint" || (typeof value === "object" && value !== null)) return false;
  }
  return true;
}

function replaceErrors(_key: string, value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  return value instanceof Error ? describeError(value) : value;
}

/** The loggable form of an error, causes included: this is for operators, never for users. */
export function describeError(error: Error, depth = 0): Json {
  const cause =
    error.cause instanceof Error && depth < 5 ? { cause: describeError(error.cause, depth + 1) } : {};
  if (error instanceof Fault) {
    const { code, reason, message, detail } = error;
    const bug = code === "internal" ? { stack: error.stack ?? "" } : {};
    return { code, reason, message, detail, ...bug, ...cause };
  }
  return { name: error.name, message: error.message, stack: error.stack ?? "", ...cause };
}
