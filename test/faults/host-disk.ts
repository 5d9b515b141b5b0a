/** A host's disk for tests: a folder of a size that can be changed, where this user may mount one. */
import { execFile } from "node:child_process";
import { mkdir, statfs } from "node:fs/promises";
import { promisify } from "node:util";

const run = promisify(execFile);
const MiB = 1024 ** 2;
const roomyBytes = 1024 * MiB;
/** Somebody may write between the look at how full it is and the change; it cannot be made smaller than what it holds. */
const fillTries = 20;

export class HostDisk implements AsyncDisposable {
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
  }

  /** Undefined where it cannot be had; the folder is there in any case. */
  static async mount(directory: string): Promise<HostDisk | undefined> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const options = `size=${String(roomyBytes)},mode=700`;
    return await run("mount", ["-t", "tmpfs", "-o", options, "skerry", directory]).then(
      () => new HostDisk(directory),
      () => undefined, // not for this user
    );
  }

  /** Leaves next to nothing. */
  async fill(): Promise<void> {
    for (let tries = 1; ; tries++) {
      const { blocks, bfree, bsize } = await statfs(this.#directory);
      try {
        return await this.#resize((blocks - bfree) * bsize + MiB / 4);
      } catch (thrown) {
        if (tries === fillTries) throw thrown;
      }
    }
  }

  async makeRoom(): Promise<void> {
    await this.#resize(roomyBytes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run("umount", ["--lazy", this.#directory]);
  }

  async #resize(bytes: number): Promise<void> {
    await run("mount", ["-o", `remount,size=${String(bytes)}`, this.#directory]);
  }
}
