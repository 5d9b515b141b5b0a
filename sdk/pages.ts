/** Lists that are fetched page by page while they are read. */

export interface Page<T> {
  readonly items: readonly T[];
  /** All that match, whatever the page. */
  readonly total: number;
  /** Null on the last page. */
  readonly next_cursor: string | null;
}

/** A list: iterate over it for every item, or over {@link Listing.pages} for whole pages. */
export class Listing<T> implements AsyncIterable<T> {
  readonly #fetchPage: (cursor: string | undefined) => Promise<Page<T>>;

  constructor(fetchPage: (cursor: string | undefined) => Promise<Page<T>>) {
    this.#fetchPage = fetchPage;
  }

  /** The first page alone. */
  first(): Promise<Page<T>> {
    return this.#fetchPage(undefined);
  }

  /** Page after page; each is fetched when it is asked for. */
  async *pages(): AsyncGenerator<Page<T>, void, undefined> {
    let cursor: string | undefined;
    do {
      const page = await this.#fetchPage(cursor);
      yield page;
      cursor = page.next_cursor ?? undefined;
    } while (cursor !== undefined);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    for await (const page of this.pages()) yield* page.items;
  }

  /** Every item. Mind the memory: a cloud may hold many. */
  async all(): Promise<T[]> {
    const items: T[] = [];
    for await (const page of this.pages()) items.push(...page.items);
    return items;
  }
}
