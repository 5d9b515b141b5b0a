/** Questions to whoever sits at the terminal, and secrets from a pipe. */
import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import { Fault } from "#kernel/fault.ts";
import type { Session } from "./session.ts";

/** @param option what to give where there is no terminal */
export async function ask(session: Session, question: string, option: string): Promise<string> {
  const { stdin, stderr, signal } = session.terminal;
  requireTerminal(session, option);
  const reader = createInterface({ input: stdin, output: stderr });
  try {
    return (await reader.question(question, { signal })).trim();
  } finally {
    reader.close();
  }
}

/** Asks without showing what is typed. */
export async function askSecretly(session: Session, question: string): Promise<string> {
  const { stdin, stderr, signal } = session.terminal;
  requireTerminal(session, "--password-stdin");
  stderr.write(question);
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const reader = createInterface({ input: stdin, output: nowhere, terminal: true });
  try {
    return await reader.question("", { signal });
  } finally {
    reader.close();
    stderr.write("\n");
  }
}

function requireTerminal(session: Session, option: string): void {
  if (session.terminal.stdin.isTTY) return;
  throw new Fault("invalid", `there is no terminal to ask on: give ${option}`, { reason: "NO_TERMINAL" });
}

/** The first lines of standard input, one for each secret that is wanted. */
export async function readLines(session: Session, count: number): Promise<readonly string[]> {
  const lines: string[] = [];
  for await (const line of createInterface({ input: session.terminal.stdin })) {
    if (lines.push(line) === count) return lines;
  }
  throw new Fault("invalid", `standard input has ${String(lines.length)} of ${String(count)} lines`, {
    reason: "NO_PASSWORD",
  });
}
