/** `skerry vm console` and `skerry vm log`: the serial port. */
import type { ReadStream } from "node:tty";
import { Command } from "commander";
import type { Console } from "../../console.ts";
import type { Run, Session } from "../session.ts";
import { parseDuration, parseSize } from "../units.ts";

/** Ctrl-], as telnet has it: no program in a guest is likely to want it. */
const leaveKey = 0x1d;

interface ConsoleFlags {
  readonly log?: true;
  readonly for?: number;
}

interface LogFlags {
  readonly follow?: true;
  readonly bytes?: number;
}

/** The commands about a machine's serial port. */
export function consoleCommands(run: Run): Command[] {
  return [
    new Command("console")
      .description("join the serial console; Ctrl-] leaves it")
      .argument("<vm>", "name or id")
      .option("--log", "begin with the whole log instead of its end")
      .option("--for <duration>", "leave after this long (for scripts)", parseDuration)
      .action(run(joinConsole)),
    new Command("log")
      .description("print what the serial console has shown")
      .argument("<vm>", "name or id")
      .option("-f, --follow", "go on with what comes")
      .option("--bytes <size>", "how much of the end (default: 64k, at most 1m)", parseSize)
      .action(run(printLog)),
  ];
}

async function joinConsole(session: Session, name: string, flags: ConsoleFlags): Promise<void> {
  const { instances } = await session.cloud();
  const instance = await instances.find(name, { signal: session.signal });
  const { stdin } = session.terminal;
  if (stdin.isTTY) session.note(`Joining ${instance.name}; Ctrl-] leaves.`);
  const opened = instances.console(instance.id, {
    signal: session.signal,
    offset: flags.log ? 0 : undefined,
    onReconnect: ({ fault, waitMs }) =>
      session.note(`\n[${fault.message}; trying again in ${(waitMs / 1000).toFixed(1)} s]`),
  });
  const timer = flags.for === undefined ? undefined : setTimeout(() => opened.close(), flags.for);
  const release = attachKeyboard(stdin, opened);
  try {
    await copyOutput(session, opened);
  } finally {
    clearTimeout(timer);
    release();
  }
  if (stdin.isTTY) session.note(`\nLeft ${instance.name}.`);
}

/** Sends what is typed, byte by byte; gives the way to undo it. */
function attachKeyboard(stdin: ReadStream, opened: Console): () => void {
  const type = (input: Buffer) => {
    const leave = stdin.isTTY ? input.indexOf(leaveKey) : -1;
    const typed = leave < 0 ? input : input.subarray(0, leave);
    if (typed.length > 0) opened.write(typed);
    if (leave >= 0) opened.close();
  };
  if (stdin.isTTY) stdin.setRawMode(true);
  stdin.on("data", type);
  return () => {
    stdin.off("data", type);
    if (stdin.isTTY) stdin.setRawMode(false);
    stdin.pause();
  };
}

async function copyOutput(session: Session, opened: Console): Promise<void> {
  const { stdout } = session.terminal;
  for await (const chunk of opened) {
    if (stdout.write(chunk)) continue;
    await new Promise((resolve) => stdout.once("drain", resolve));
  }
}

async function printLog(session: Session, name: string, flags: LogFlags): Promise<void> {
  const { instances } = await session.cloud();
  const { signal } = session;
  const { id } = await instances.find(name, { signal });
  const log = await instances.consoleLog(id, { limit: flags.bytes, signal });
  if (session.out.format === "table") session.out.raw(log.text);
  else session.out.done("", log);
  if (flags.follow) await copyOutput(session, instances.console(id, { offset: log.offset, signal }));
}
