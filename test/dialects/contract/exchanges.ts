/** The documented operations that are there so far, in an order in which each finds what it needs. */
import { atonix } from "./atonix.ts";
import type { DialectName } from "./documented.ts";
import type { Exchange } from "./exchange.ts";
import { novacron } from "./novacron.ts";
import { services } from "./services.ts";

export const exchanges: Readonly<Record<DialectName, readonly Exchange[]>> = { atonix, services, novacron };
