/** Where this host is and what it costs, as its owner wrote it down. */
import { readFile } from "node:fs/promises";
import { create, fromJson, type JsonValue } from "@bufbuild/protobuf";
import { Fault } from "#kernel/fault.ts";
import { type HostLabels, HostLabelsSchema } from "#gen/skerry/agent/v1/host_pb.js";

/** Reads the labels file, the JSON form of `HostLabels`. Without one, a host is a site of its own. */
export async function readHostLabels(path: string | undefined): Promise<HostLabels> {
  if (path === undefined)
    return create(HostLabelsSchema, { provider: "local", region: "local", zone: "local" });
  try {
    return fromJson(HostLabelsSchema, JSON.parse(await readFile(path, "utf8")) as JsonValue);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : "unreadable";
    throw new Fault("invalid", `the labels file is wrong: ${why}`, { reason: "LABELS_INVALID", cause });
  }
}
