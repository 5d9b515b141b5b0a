/** `skerry keypair`: public SSH keys that new machines let in. */
import { writeFile } from "node:fs/promises";
import { Command } from "commander";
import { Fault } from "#kernel/fault.ts";
import type { KeyPair } from "../../kinds/generated.ts";
import type { Column } from "../output.ts";
import type { Run, Session } from "../session.ts";
import { readKey } from "../text-file.ts";

interface CreateOptions {
  readonly publicKey?: string;
  readonly out?: string;
}

/** All about key pairs. */
export function keyPairCommand(run: Run): Command {
  const keypair = new Command("keypair").description("SSH keys that new machines let in");
  keypair
    .command("ls")
    .alias("list")
    .description("list key pairs")
    .action(
      run(async (session) => {
        const { keyPairs } = await session.cloud();
        session.out.list(await keyPairs.list({}, { signal: session.signal }).all(), columns);
      }),
    );
  keypair
    .command("show")
    .description("show a key pair")
    .argument("<keypair>", "name or id")
    .action(
      run(async (session, name: string) => {
        const { keyPairs } = await session.cloud();
        const found = await keyPairs.find(name, { signal: session.signal });
        session.out.show(found, [
          ["name", found.name],
          ["id", found.id],
          ["type", found.status?.type ?? ""],
          ["fingerprint", found.status?.fingerprint ?? ""],
          ["public key", found.spec.public_key ?? ""],
        ]);
      }),
    );
  keypair
    .command("create")
    .description("keep a public key, or make a pair whose private half is shown this once")
    .argument("<name>")
    .option("--public-key <file|key>", "the key that is there already")
    .option("--out <file>", "where the private half of a new pair goes, for its owner alone to read")
    .action(run(create));
  keypair
    .command("rm")
    .description("delete key pairs; machines keep the keys that they were made with")
    .argument("<keypair...>", "names or ids")
    .action(run(remove));
  return keypair;
}

async function create(session: Session, name: string, { publicKey, out }: CreateOptions): Promise<void> {
  const { keyPairs } = await session.cloud();
  const { signal } = session;
  if (publicKey !== undefined) {
    const made = await keyPairs.create({ name, spec: { public_key: await readKey(publicKey) } }, { signal });
    session.out.done(`Keeps ${name} (${made.status?.fingerprint ?? made.id}).`, made);
    return;
  }
  // The file first: what is shown once must not be lost because it cannot be written.
  if (out !== undefined) await writePrivate(out, "");
  const { private_key: privateKey, ...made } = await keyPairs.generate(name, { signal });
  if (out === undefined) {
    session.out.done(`Made ${name}. Its private half:\n${privateKey.trimEnd()}`, {
      ...made,
      private_key: privateKey,
    });
    return;
  }
  await writeFile(out, privateKey);
  session.out.done(`Made ${name}; its private half is in ${out}.`, made);
}

/** Makes the file; one that is there is never written over. */
async function writePrivate(path: string, text: string): Promise<void> {
  await writeFile(path, text, { mode: 0o600, flag: "wx" }).catch((error: NodeJS.ErrnoException) => {
    throw new Fault("invalid", `cannot write ${path}: ${error.code ?? error.message}`, {
      reason: "FILE_UNWRITABLE",
      cause: error,
    });
  });
}

async function remove(session: Session, names: readonly string[]): Promise<void> {
  const { keyPairs } = await session.cloud();
  const found: KeyPair[] = [];
  for (const name of names) found.push(await keyPairs.find(name, { signal: session.signal }));
  for (const { id } of found) await keyPairs.delete(id, { signal: session.signal });
  const removed = found.map(({ id, name }) => ({ id, name }));
  session.out.done(removed.map(({ name }) => `Deleted key pair ${name}.`).join("\n"), removed);
}

const columns: readonly Column<KeyPair>[] = [
  { title: "NAME", value: (r) => r.name },
  { title: "ID", value: (r) => r.id },
  { title: "TYPE", value: (r) => r.status?.type ?? "" },
  { title: "FINGERPRINT", value: (r) => r.status?.fingerprint ?? "" },
];
