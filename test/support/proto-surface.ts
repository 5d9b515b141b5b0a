/**
 * What a protobuf file declares, read from its source and from the descriptor inside the generated code,
 * in one form. It shows without any tool whether generated code is that of its source.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { base64Decode } from "@bufbuild/protobuf/wire";
import {
  FieldDescriptorProto_Label,
  FieldDescriptorProto_Type,
  FileDescriptorProtoSchema,
  type DescriptorProto,
  type EnumDescriptorProto,
  type FieldDescriptorProto,
} from "@bufbuild/protobuf/wkt";

/** Lines such as `Machine.id: string = 1`, sorted. */
export type Surface = readonly string[];

const lastPart = (name: string) => name.slice(name.lastIndexOf(".") + 1);

/** From the source text: enough of the grammar for the files of this repository. */
export function surfaceOfSource(proto: string): Surface {
  const lines: string[] = [];
  const scope: string[] = [];
  const tokens = proto.replace(/\/\/.*$/gm, "").match(/[^;{}]+|[;{}]/g) ?? [];
  tokens.forEach((token, index) => {
    const statement = token.trim().replace(/\s+/g, " ");
    const block = /^(message|enum|service|oneof|rpc) (\w+)/.exec(statement);
    if (token === "}") scope.pop();
    else if (tokens[index + 1] === "{") scope.push(block?.[1] === "oneof" ? "" : (block?.[2] ?? ""));
    lines.push(...declarationOf(scope, statement));
  });
  return lines.sort();
}

function declarationOf(scope: readonly string[], statement: string): string[] {
  const at = scope.filter((part) => part !== "").join(".");
  const map = /^map<(\w+), ([\w.]+)> (\w+) = (\d+)/.exec(statement);
  if (map) return [`${at}.${map[3] ?? ""}: map ${map[1] ?? ""} ${lastPart(map[2] ?? "")} = ${map[4] ?? ""}`];
  const field = /^(repeated |optional )?([\w.]+) (\w+) = (\d+)/.exec(statement);
  if (field && at !== "") {
    return [`${at}.${field[3] ?? ""}: ${field[1] ?? ""}${lastPart(field[2] ?? "")} = ${field[4] ?? ""}`];
  }
  const value = /^(\w+) = (\d+)/.exec(statement);
  if (value && at !== "") return [`${at}.${value[1] ?? ""} = ${value[2] ?? ""}`];
  const rpc = /^rpc (\w+) ?\((stream )?([\w.]+)\) returns \((stream )?([\w.]+)\)/.exec(statement);
  if (!rpc) return [];
  const service = scope[0] ?? "";
  return [
    `${service}.${rpc[1] ?? ""}(${rpc[2] ?? ""}${lastPart(rpc[3] ?? "")}) ${rpc[4] ?? ""}${lastPart(rpc[5] ?? "")}`,
  ];
}

/** From the generated JavaScript, which carries the descriptor as base64. */
export function surfaceOfGenerated(javascript: string): Surface {
  const encoded = /fileDesc\("([^"]+)"/.exec(javascript)?.[1] ?? "";
  const file = fromBinary(FileDescriptorProtoSchema, base64Decode(encoded));
  const services = file.service.flatMap((service) =>
    service.method.map((method) => {
      const input = `${method.clientStreaming ? "stream " : ""}${lastPart(method.inputType)}`;
      const output = `${method.serverStreaming ? "stream " : ""}${lastPart(method.outputType)}`;
      return `${service.name}.${method.name}(${input}) ${output}`;
    }),
  );
  const messages = file.messageType.flatMap((message) => linesOfMessage(message, ""));
  return [...services, ...messages, ...file.enumType.flatMap((one) => linesOfEnum(one, ""))].sort();
}

function linesOfMessage(message: DescriptorProto, prefix: string): string[] {
  const name = `${prefix}${message.name}`;
  const entries = new Map(
    message.nestedType.filter((type) => type.options?.mapEntry).map((type) => [type.name, type]),
  );
  return [
    ...message.field.map(
      (field) => `${name}.${field.name}: ${typeOf(field, entries)} = ${String(field.number)}`,
    ),
    ...message.enumType.flatMap((type) => linesOfEnum(type, `${name}.`)),
    ...message.nestedType
      .filter((type) => !entries.has(type.name))
      .flatMap((type) => linesOfMessage(type, `${name}.`)),
  ];
}

function linesOfEnum(type: EnumDescriptorProto, prefix: string): string[] {
  return type.value.map((value) => `${prefix}${type.name}.${value.name} = ${String(value.number)}`);
}

function typeOf(field: FieldDescriptorProto, entries: ReadonlyMap<string, DescriptorProto>): string {
  const entry = entries.get(lastPart(field.typeName));
  const [key, value] = entry?.field ?? [];
  if (key && value) return `map ${typeOf(key, entries)} ${typeOf(value, entries)}`;
  const named = field.typeName === "" ? scalarName(field.type) : lastPart(field.typeName);
  if (field.label === FieldDescriptorProto_Label.REPEATED) return `repeated ${named}`;
  return field.proto3Optional ? `optional ${named}` : named;
}

function scalarName(type: FieldDescriptorProto_Type): string {
  return (FieldDescriptorProto_Type[type] ?? "").toLowerCase();
}
