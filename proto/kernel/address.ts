/** Which addresses of the internet are public, and which lead back into somebody's own network. */
import { BlockList, isIPv4, isIPv6 } from "node:net";
import { Fault } from "./fault.ts";

/** Special-purpose IPv4 ranges (RFC 6890 and later), and cloud metadata services on public addresses. */
const notPublic4 = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10", // carrier-grade NAT
  "127.0.0.0/8",
  "168.63.129.16/32", // Azure's metadata
  "169.254.0.0/16", // link-local, and most clouds' metadata
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.0.2.0/24",
  "192.88.99.0/24",
  "192.168.0.0/16",
  "198.18.0.0/15",
  "198.51.100.0/24",
  "203.0.113.0/24",
  "224.0.0.0/4", // multicast
  "240.0.0.0/4",
];
/** Everything outside this is special in IPv6; the second list are the exceptions within. */
const global6 = ["2000::/3"];
const notPublic6 = ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"];

/** Makes a list of ranges such as `10.0.0.0/8`, `fd00::/8` or single addresses. */
export function addressRanges(ranges: readonly string[]): BlockList {
  const list = new BlockList();
  for (const range of ranges) {
    const [address = "", prefix, ...rest] = range.split("/");
    const family = isIPv4(address) ? "ipv4" : isIPv6(address) ? "ipv6" : undefined;
    const longest = family === "ipv4" ? 32 : 128;
    const length = prefix === undefined ? longest : /^\d+$/.test(prefix) ? Number(prefix) : -1;
    if (!family || length < 0 || length > longest || rest.length > 0) {
      throw new Fault("invalid", `${JSON.stringify(range)} is not a range of addresses`, {
        reason: "ADDRESS_RANGE_INVALID",
      });
    }
    list.addSubnet(address, length, family);
  }
  return list;
}

const specials = { four: addressRanges(notPublic4), six: addressRanges(notPublic6) };
const globalSix = addressRanges(global6);

/**
 * True when a connection may go to the address: it is public, or the operator has allowed its range.
 * An IPv6 address that only wraps an IPv4 one is judged by what it wraps.
 */
export function mayConnect(address: string, allowed: BlockList): boolean {
  const embedded = isIPv6(address) ? embeddedIPv4(address) : undefined;
  const judged = embedded ?? address;
  if (isIPv4(judged)) return allowed.check(judged, "ipv4") || !specials.four.check(judged, "ipv4");
  if (!isIPv6(judged)) return false;
  if (allowed.check(judged, "ipv6")) return true;
  return globalSix.check(judged, "ipv6") && !specials.six.check(judged, "ipv6");
}

/** ::ffff:a.b.c.d (mapped) and 64:ff9b::a.b.c.d (NAT64). */
function embeddedIPv4(address: string): string | undefined {
  // The URL parser writes every spelling of an address in one way.
  const canonical = new URL(`http://[${address.replace(/%.*$/, "")}]`).hostname.slice(1, -1);
  const wrapped = /^(?:::ffff:|64:ff9b::)(?:([0-9a-f]{1,4}):)?([0-9a-f]{1,4})$/.exec(canonical);
  if (!wrapped) return undefined;
  const high = parseInt(wrapped[1] ?? "0", 16);
  const low = parseInt(wrapped[2] ?? "0", 16);
  return [high >> 8, high & 255, low >> 8, low & 255].join(".");
}
