/** Server reflection, so that grpcurl, buf curl and the like can list and call what the agent offers. */
import { createRegistry, fromBinary, toBinary, type DescFile, type DescService } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import type { ConnectRouter } from "@connectrpc/connect";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  ServerReflection,
  ServerReflectionRequestSchema,
  ServerReflectionResponseSchema,
  type ServerReflectionRequest,
} from "#gen/grpc/reflection/v1/reflection_pb.js";
import * as alpha from "#gen/grpc/reflection/v1alpha/reflection_pb.js";
import { create } from "@bufbuild/protobuf";
import { requireOperator } from "./caller.ts";

type Answer = NonNullable<MessageInitShape<typeof ServerReflectionResponseSchema>["messageResponse"]>;

/** gRPC's NOT_FOUND: reflection answers with codes inside its messages. */
const notFound: Answer = {
  case: "errorResponse",
  value: { errorCode: 5, errorMessage: "there is no such thing here" },
};

/** Serves reflection, in the present version and the one before that older tools ask for. */
export function reflectionRoutes(services: readonly DescService[]) {
  const answer = createAnswer(services);
  const respond = (originalRequest: ServerReflectionRequest) =>
    create(ServerReflectionResponseSchema, {
      validHost: originalRequest.host,
      originalRequest,
      messageResponse: answer(originalRequest),
    });
  return (router: ConnectRouter): ConnectRouter =>
    router
      .service(ServerReflection, {
        async *serverReflectionInfo(requests, context) {
          requireOperator(context);
          for await (const request of requests) yield respond(request);
        },
      })
      .service(alpha.ServerReflection, {
        async *serverReflectionInfo(requests, context) {
          requireOperator(context);
          // The same bytes under an older name.
          for await (const request of requests) {
            const bytes = toBinary(alpha.ServerReflectionRequestSchema, request);
            const response = respond(fromBinary(ServerReflectionRequestSchema, bytes));
            yield fromBinary(
              alpha.ServerReflectionResponseSchema,
              toBinary(ServerReflectionResponseSchema, response),
            );
          }
        },
      });
}

function createAnswer(services: readonly DescService[]): (request: ServerReflectionRequest) => Answer {
  const registry = createRegistry(...services.map((service) => service.file));
  const files = new Map(
    services.flatMap((service) => withImports(service.file)).map((f) => [`${f.name}.proto`, f]),
  );
  const describe = (file: DescFile | undefined): Answer =>
    file
      ? {
          case: "fileDescriptorResponse",
          value: {
            fileDescriptorProto: withImports(file).map((f) => toBinary(FileDescriptorProtoSchema, f.proto)),
          },
        }
      : notFound;
  /** A method is found in its service. */
  const fileOf = (symbol: string) =>
    (registry.get(symbol) ?? registry.getService(symbol.slice(0, symbol.lastIndexOf("."))))?.file;

  return ({ messageRequest: { case: what, value } }) => {
    switch (what) {
      case "listServices":
        return {
          case: "listServicesResponse",
          value: { service: services.map(({ typeName }) => ({ name: typeName })) },
        };
      case "fileByFilename":
        return describe(files.get(value));
      case "fileContainingSymbol":
        return describe(fileOf(value));
      case "allExtensionNumbersOfType":
        return { case: "allExtensionNumbersResponse", value: { baseTypeName: value } };
      case "fileContainingExtension":
      case undefined:
        return notFound;
    }
  };
}

/** The file and all that it imports, each once. */
function withImports(file: DescFile, seen = new Set<DescFile>()): DescFile[] {
  if (seen.has(file)) return [];
  seen.add(file);
  return [file, ...file.dependencies.flatMap((imported) => withImports(imported, seen))];
}
