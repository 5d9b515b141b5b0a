/**
 * Memory or a disk of a fake machine: pages in a file, with a note of those that were written to. What is in it
 * survives the agent, as a hypervisor's would; which pages are dirty does not. The files are small and every
 * write is one system call, so that a kill leaves whole pages.
 */
import { createHash } from "node:crypto";
import { closeSync, constants, fstatSync, ftruncateSync, openSync, readSync, writeSync } from "node:fs";

export const pageBytes = 4096;

export class PageFile implements Disposable {
  readonly pages: number;
  readonly #file: number;
  readonly #dirty = new Set<number>();
  #since: { readonly migrationId: string; readonly changed: Set<number> } | undefined;
  #open = true;

  private constructor(file: number, pages: number) {
    this.#file = file;
    this.pages = pages;
  }

  /** Opens the file, or makes one of zeros with so many pages. One that is there keeps its size. */
  static open(path: string, pages: number): PageFile {
    const file = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    const { size } = fstatSync(file);
    if (size > 0) return new PageFile(file, size / pageBytes);
    ftruncateSync(file, pages * pageBytes);
    return new PageFile(file, pages);
  }

  get dirtyPages(): readonly number[] {
    return [...this.#dirty];
  }

  read(page: number): Buffer {
    const bytes = Buffer.alloc(pageBytes);
    readSync(this.#file, bytes, 0, pageBytes, page * pageBytes);
    return bytes;
  }

  /** Writes bytes at the beginning of a page. */
  write(page: number, bytes: Uint8Array): void {
    writeSync(this.#file, bytes, 0, bytes.length, page * pageBytes);
    this.#dirty.add(page);
    this.#since?.changed.add(page);
  }

  /** Remembers from here on, for as long as this process lives, what is written. */
  rememberSince(migrationId: string): void {
    this.#since = { migrationId, changed: new Set() };
  }

  /** The migration since which it is known what was written. */
  get since(): string | undefined {
    return this.#since?.migrationId;
  }

  /** As if all had been copied but what was written since. */
  markChanged(): void {
    this.#dirty.clear();
    this.markDirty(this.#since?.changed ?? []);
  }

  markClean(pages: Iterable<number>): void {
    for (const page of pages) this.#dirty.delete(page);
  }

  markDirty(pages: Iterable<number>): void {
    for (const page of pages) this.#dirty.add(page);
  }

  markAll(): void {
    for (let page = 0; page < this.pages; page++) this.#dirty.add(page);
  }

  digest(): Buffer {
    const hash = createHash("sha256");
    for (let page = 0; page < this.pages; page++) hash.update(this.read(page));
    return hash.digest();
  }

  [Symbol.dispose](): void {
    if (this.#open) closeSync(this.#file);
    this.#open = false;
  }
}
