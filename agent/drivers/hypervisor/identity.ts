/** What is derived from a machine's id alone, so that it is the same on every start and needs no store. */
import { createHash } from "node:crypto";

export interface MachineIdentity {
  readonly uuid: string;
  readonly macAddress: string;
  readonly network: GuestNetwork;
}

/** The guest's private network behind QEMU's user-mode router. */
export interface GuestNetwork {
  readonly cidr: string;
  readonly router: string;
  readonly nameServer: string;
  readonly guest: string;
}

/** Networks of different machines differ, up to chance (1 in 49,152), so that their addresses do. */
export function deriveIdentity(id: string): MachineIdentity {
  const hash = createHash("sha256").update(`machine:${id}`).digest();
  const uuid = Buffer.from(hash.subarray(0, 16));
  uuid[6] = (hash.readUInt8(6) & 0x0f) | 0x80; // version 8: made by a rule of our own
  uuid[8] = (hash.readUInt8(8) & 0x3f) | 0x80;
  const mac = hash.subarray(16, 19);
  // The lower quarter of 10/8 is left out: that is where people put the networks that guests want to reach.
  const prefix = `10.${String(64 + (hash.readUInt8(19) % 192))}.${String(hash.readUInt8(20))}`;
  return {
    uuid: uuid.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5"),
    macAddress: ["52", "54", "00", ...Array.from(mac, (byte) => byte.toString(16).padStart(2, "0"))].join(
      ":",
    ),
    network: {
      cidr: `${prefix}.0/24`,
      router: `${prefix}.2`,
      nameServer: `${prefix}.3`,
      guest: `${prefix}.15`,
    },
  };
}
