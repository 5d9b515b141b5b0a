import { invalidField } from "../app/validation.ts";

/** The networks that every project has. */
const networks = ["default"];

/** A network that there is; throws `invalid` for others, with those there are. */
export function knownNetwork(field: string, network: string): string {
  if (networks.includes(network)) return network;
  throw invalidField(field, "there is no network of that name", { known: networks });
}
