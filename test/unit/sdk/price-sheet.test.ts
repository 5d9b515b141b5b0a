/** A price sheet in a file: what is taken, and what is told of mistakes. */
import t from "tap";
import type { Fault } from "#kernel/fault.ts";
import { compareSheets, parsePriceSheet } from "#sdk/cli/price-sheet.ts";

const sheet = `# what we pay
currency: EUR
prices:
  - {provider: cellar, cpu_per_hour: 0.02, memory_per_gb: 0.004}
  - provider: aws
    region: eu-north-1
    cpu_per_hour: 0.05
    memory_per_gb: 0.01
    disk_gib_per_month: 0.1
    egress_per_gib: 0.09
    currency: USD
`;
const [cellar, aws] = parsePriceSheet(sheet);

function faultOf(text: string): Fault {
  try {
    parsePriceSheet(text);
  } catch (fault) {
    return fault as Fault;
  }
  throw new Error("it was taken");
}

void t.test("lines have the file's currency or their own", async (t) => {
  const none = { disk_gib_per_month: 0, egress_per_gib: 0 };
  t.same(cellar, {
    ...{ provider: "cellar", region: null, cpu_per_hour: 0.02, memory_per_gb: 0.004, currency: "EUR" },
    ...none,
  });
  t.match(aws, { region: "eu-north-1", currency: "USD", disk_gib_per_month: 0.1, egress_per_gib: 0.09 });
});

void t.test("each mistake is told with its line and field", async (t) => {
  const cases: readonly [string, string][] = [
    [sheet.replace("0.02", "-1"), "line 4: prices.0.cpu_per_hour: a number of 0 or more is expected"],
    [sheet.replace("    cpu_per_hour: 0.05\n", ""), "line 5: prices.1.cpu_per_hour: is missing"],
    [
      sheet.replace("USD", "dollars"),
      "line 11: prices.1.currency: three capital letters are expected, such as EUR",
    ],
    [sheet.replace("egress_per_gib", "egres_per_gib"), "line 10: prices.1.egres_per_gib: is not known"],
    [sheet.replace("currency: EUR\n", ""), "line 3: prices.0.currency: is missing"],
    [
      `${sheet}  - {provider: cellar, cpu_per_hour: 1, memory_per_gb: 1}`,
      "line 12: prices.2: this provider and region have a price above",
    ],
    [
      sheet.replace("prices:", "price:"),
      "line 3: price: is not known; line 2: prices: a list of prices is expected",
    ],
    ["prices: [", "line 1: "],
    ["", "line 1: a map with the list `prices` is expected"],
    ["prices: [1]", "line 1: prices.0: a map is expected"],
  ];
  for (const [text, told] of cases) {
    const { reason, message } = faultOf(text);
    t.equal(reason, "PRICE_SHEET_INVALID");
    t.ok(message.startsWith(told), `${message} begins with ${told}`);
  }
});

void t.test("what has not changed is left alone, and a second import changes nothing", async (t) => {
  const present = [
    { id: "price-1", spec: { ...cellar!, cpu_per_hour: 0.03 } },
    { id: "price-2", spec: aws! },
    { id: "price-3", spec: { ...aws!, region: "us-east-1" } },
  ];
  t.same(compareSheets(present, [cellar!, aws!]), {
    create: [],
    update: [{ id: "price-1", spec: cellar }],
    others: [present[2]],
  });
  t.same(compareSheets([], [cellar!]).create, [cellar]);
  t.match(compareSheets([{ id: "price-1", spec: cellar! }], [cellar!]), {
    create: [],
    update: [],
    others: [],
  });
});
