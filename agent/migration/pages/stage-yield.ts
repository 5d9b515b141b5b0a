/**
 * Whether looking pages up in the image is worth its work for a stream. Pages of the image lie together in a guest's
 * memory, so one poor stretch says little; two in a row do.
 */

/** 32 MiB of the guest. */
const samplePages = 8192;
const leastShare = 0.05;
const poorSamples = 2;

export class StageYield {
  #pages = 0;
  #found = 0;
  #poor = 0;

  /** Counts pages that were looked up; false once too few of them were found, and from then on. */
  pays(pages: number, found: number): boolean {
    if (this.#poor >= poorSamples) return false;
    this.#pages += pages;
    this.#found += found;
    if (this.#pages < samplePages) return true;
    this.#poor = this.#found < leastShare * this.#pages ? this.#poor + 1 : 0;
    this.#pages = 0;
    this.#found = 0;
    return this.#poor < poorSamples;
  }
}
