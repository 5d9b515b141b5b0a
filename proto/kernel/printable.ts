/**
 * Text from elsewhere is never trusted with a terminal, nor with what reads a log line by line: control characters, those
 * that turn text round, and ends of lines that only some readers know become visible.
 */
const unprintable = /[\p{Cc}\p{Bidi_Control}\u2028\u2029]/gu;
/** Of those, the ones that JSON does not escape by itself. */
const unprintableInJson = /[\u007f-\u009f\p{Bidi_Control}\u2028\u2029]/gu;

const hex = (character: string, digits: number): string =>
  character.charCodeAt(0).toString(16).padStart(digits, "0");

/** Text whose unprintable characters have become visible ones. */
export function printable(text: string, keepLines = false): string {
  return text.replace(unprintable, (character) => {
    if (keepLines && character === "\n") return character;
    return character < "\u0100" ? `\\x${hex(character, 2)}` : `\\u${hex(character, 4)}`;
  });
}

/** The same JSON with nothing unprintable in its strings; YAML whose strings are all quoted takes it as well. */
export function printableJson(json: string): string {
  return json.replace(unprintableInJson, (character) => `\\u${hex(character, 4)}`);
}
