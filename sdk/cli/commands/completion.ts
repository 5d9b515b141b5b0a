/** `skerry completion`: scripts that are generated from the tree of commands, so they cannot lag behind. */
import { Argument, Command, type Option } from "commander";
import type { Run } from "../session.ts";

const shells = ["bash", "zsh", "fish"] as const;
type Shell = (typeof shells)[number];

/** The command that prints a script for a shell to read. */
export function completionCommand(run: Run, program: Command): Command {
  return new Command("completion")
    .description("print completion for a shell: source <(skerry completion bash)")
    .addArgument(new Argument("<shell>", "which shell").choices(shells))
    .action(
      run(async (session, shell: Shell) => {
        session.out.raw(writers[shell](entriesOf(program)));
      }),
    );
}

/** One command: its path ("vm create"), and what may come after it. */
interface Entry {
  readonly path: string;
  readonly commands: readonly { readonly name: string; readonly description: string }[];
  readonly options: readonly Option[];
}

function entriesOf(program: Command): Entry[] {
  const entries: Entry[] = [];
  const visit = (command: Command, path: string) => {
    const own = command === program ? [] : command.options;
    entries.push({
      path,
      commands: command.commands.map((each) => ({ name: each.name(), description: each.description() })),
      options: [...own, ...program.options],
    });
    for (const child of command.commands) visit(child, `${path} ${child.name()}`.trim());
  };
  visit(program, "");
  return entries;
}

const flagsOf = (option: Option): string[] =>
  [option.short, option.long].filter((flag): flag is string => flag !== undefined);

/** Flags that take one of a few values. */
function choicesIn(entries: readonly Entry[]): Map<string, readonly string[]> {
  const choices = new Map<string, readonly string[]>();
  for (const option of entries.flatMap((entry) => entry.options)) {
    if (option.argChoices) choices.set(flagsOf(option).join("|"), option.argChoices);
  }
  return choices;
}

/** The part that bash and zsh share: finds the command's path among the words typed, then its words. */
function posixBody(entries: readonly Entry[]): string[] {
  const paths = entries.filter((entry) => entry.path !== "").map((entry) => `"${entry.path}"`);
  return [
    `  local path="" word words=""`,
    `  for word in "$@"; do`,
    `    case "\${path:+$path }$word" in`,
    `      ${paths.join("|")}) path="\${path:+$path }$word" ;;`,
    `    esac`,
    `  done`,
    `  case "$previous" in`,
    ...[...choicesIn(entries)].map(([flags, values]) => `    ${flags}) words="${values.join(" ")}" ;;`),
    `  esac`,
    `  [ -n "$words" ] || case "$path" in`,
    ...entries.map(({ path, commands, options }) => {
      const words = [...commands.map(({ name }) => name), ...options.flatMap(flagsOf), "--help"];
      return `    "${path}") words="${words.join(" ")}" ;;`;
    }),
    `  esac`,
  ];
}

const writers: Record<Shell, (entries: readonly Entry[]) => string> = {
  bash: (entries) =>
    [
      "_skerry_words() {",
      `  local previous="$1"; shift`,
      ...posixBody(entries),
      `  echo "$words"`,
      "}",
      "_skerry() {",
      `  local current="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD-1]}"`,
      `  local words="$(_skerry_words "$previous" "\${COMP_WORDS[@]:1:COMP_CWORD-1}")"`,
      `  COMPREPLY=($(compgen -W "$words" -- "$current"))`,
      "}",
      "complete -o default -F _skerry skerry",
      "",
    ].join("\n"),
  zsh: (entries) =>
    [
      "#compdef skerry",
      "_skerry_words() {",
      `  local previous="$1"; shift`,
      ...posixBody(entries),
      `  echo "$words"`,
      "}",
      "_skerry() {",
      `  local found=($(_skerry_words "\${words[CURRENT-1]}" "\${(@)words[2,CURRENT-1]}"))`,
      `  compadd -- $found`,
      `  _files`,
      "}",
      "compdef _skerry skerry",
      "",
    ].join("\n"),
  fish: (entries) =>
    [
      "function __skerry_path",
      "    set -l path ''",
      "    for word in (commandline -opc)[2..-1]",
      `        switch (string trim "$path $word")`,
      `            case ${entries.flatMap(({ path }) => (path === "" ? [] : [`'${path}'`])).join(" ")}`,
      `                set path (string trim "$path $word")`,
      "        end",
      "    end",
      "    echo $path",
      "end",
      ...entries.flatMap(({ path, commands, options }) => {
        const at = `complete -c skerry -n 'test (__skerry_path) = "${path}"'`;
        return [
          ...commands.map(({ name, description }) => `${at} -f -a ${name} -d ${fishText(description)}`),
          ...options.map((option) => `${at}${fishFlags(option)} -d ${fishText(option.description)}`),
        ];
      }),
      "",
    ].join("\n"),
};

const fishText = (text: string): string => `'${text.replace(/[\\']/g, "\\$&")}'`;

function fishFlags(option: Option): string {
  const short = option.short ? ` -s ${option.short.slice(1)}` : "";
  const long = option.long ? ` -l ${option.long.slice(2)}` : "";
  const value = option.required ? " -r" : "";
  const choices = option.argChoices ? ` -f -a '${option.argChoices.join(" ")}'` : "";
  return short + long + value + choices;
}
