import type { Filter } from "../policy.ts";
import { convert, defaultCostScale, perHour, type CostScale } from "../prices.ts";

/**
 * No dearer than was asked for. A price in another currency is converted; one that is not known, or that cannot be
 * converted, is not taken for cheap. It looks at sizes, which label filters may not: so it comes with the load's.
 */
export function maxPrice(scale: CostScale = defaultCostScale): Filter {
  return {
    scope: "load",
    code: "max_price",
    verdict: "too dear",
    fit(request) {
      const { maxPrice: limit } = request;
      if (limit === undefined) return undefined;
      return {
        miss({ prices }) {
          const price = prices && convert(perHour(prices, request), prices.currency, limit.currency, scale);
          if (price === undefined) return Infinity;
          return price <= limit.amount ? 0 : price - limit.amount;
        },
        reason({ prices }) {
          const most = `at most ${String(limit.amount)} ${limit.currency}/h`;
          if (prices === undefined) return `no price, ${most} was asked for`;
          return `${perHour(prices, request).toPrecision(3)} ${prices.currency}/h, ${most} was asked for`;
        },
      };
    },
  };
}
