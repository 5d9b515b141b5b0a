/** What a command must look like before anything is recorded. Ids become file names: nothing else passes. */
import { Fault } from "#kernel/fault.ts";
import { peerNamePattern } from "#kernel/peer.ts";
import { type Fence, ImageType, type MachineSpec, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import { type Move, MoveRole, MoveType } from "#gen/skerry/agent/v1/migration_pb.js";
import { parseAddress } from "../control/dial.ts";

const idShape = /^[a-z0-9][a-z0-9-]{0,62}$/;

export function checkId(id: string): string {
  if (idShape.test(id)) return id;
  throw invalid("id", "must be a lower-case machine id");
}

export function checkFence(fence: Fence | undefined): Fence {
  if (fence && fence.epoch > 0n) return fence;
  throw invalid("fence", "is needed, with an epoch");
}

/** Checks what would do harm here; what it means is the control plane's and the driver's business. */
export function checkSpec(spec: MachineSpec | undefined): MachineSpec {
  if (!spec) throw invalid("spec", "is needed");
  if (spec.adoption) checkAdoption(spec);
  else if (!spec.image) throw invalid("spec.image", "is needed");
  if (spec.vcpus < 1) throw invalid("spec.vcpus", "must be at least 1");
  if (spec.memoryBytes < 1n) throw invalid("spec.memory_bytes", "must be at least 1");
  if (spec.diskBytes < 1n) throw invalid("spec.disk_bytes", "must be at least 1");
  if (spec.power === Power.UNSPECIFIED) throw invalid("spec.power", "must be on or off");
  for (const { sha256 } of spec.image?.files ?? []) {
    if (!/^[0-9a-f]{64}$/.test(sha256)) throw invalid("spec.image.files.sha256", "must be a SHA-256");
  }
  for (const { protocol, guestPort, hostPort } of spec.forwards) {
    if (protocol !== "tcp" && protocol !== "udp")
      throw invalid("spec.forwards.protocol", "must be tcp or udp");
    if (guestPort < 1 || guestPort > 65_535) throw invalid("spec.forwards.guest_port", "must be a port");
    if (hostPort > 65_535) throw invalid("spec.forwards.host_port", "must be a port or 0");
  }
  if (spec.move) checkMove(spec.move);
  if ((spec.image?.type === ImageType.CONTAINER) !== (spec.container !== undefined)) {
    throw invalid("spec.container", "goes with an image of that type, and the other way round");
  }
  if (spec.container && spec.move) throw invalid("spec.move", "is not for a container");
  return spec;
}

/** What it is made of and how it is reached are its own. */
function checkAdoption({ adoption, image, forwards, move }: MachineSpec): void {
  const { uuid = "" } = adoption ?? {};
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(uuid)) {
    throw invalid("spec.adoption.uuid", "must be a lower-case UUID");
  }
  if (image) throw invalid("spec.image", "is not for a machine that is adopted");
  if (forwards.length > 0) throw invalid("spec.forwards", "are not for a machine that is adopted");
  if (move) throw invalid("spec.move", "is not for a machine that is adopted");
}

/** The ids become names of files and of certificates' holders; a short ticket could be guessed. */
function checkMove({ migrationId, role, type, peerHostId, peerAddress, ticket }: Move): void {
  if (!idShape.test(migrationId)) throw invalid("spec.move.migration_id", "must be a lower-case id");
  if (role === MoveRole.UNSPECIFIED) throw invalid("spec.move.role", "must be source or destination");
  if (type === MoveType.UNSPECIFIED) throw invalid("spec.move.type", "must be live, cold or postcopy");
  if (!peerNamePattern.test(peerHostId)) throw invalid("spec.move.peer_host_id", "must be a host's id");
  if (ticket.length < 16) throw invalid("spec.move.ticket", "must have at least 16 bytes");
  if (peerAddress !== "") parseAddress(peerAddress);
}

function invalid(field: string, message: string): Fault {
  return new Fault("invalid", `${field} ${message}`, { reason: "COMMAND_INVALID", detail: { field } });
}
