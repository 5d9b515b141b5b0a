import { randomBytes } from "node:crypto";
import { readFile, rename, writeFile } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { Fault } from "#kernel/fault.ts";

const credentials = z.object({
  url: z.string(),
  username: z.string(),
  password: z.string(),
  api_key: z.string(),
});

/** How to get into the local cloud; `api_key` is empty until the control plane has made one. */
export type Credentials = z.infer<typeof credentials>;

const fileName = "credentials.json";

/** What an earlier start wrote, or a new first user whose password nobody else knows. */
export async function loadCredentials(home: string, url: string): Promise<Credentials> {
  const file = path.join(home, fileName);
  const text = await readFile(file, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (text === undefined) {
    return { url, username: "admin", password: randomBytes(18).toString("base64url"), api_key: "" };
  }
  try {
    return { ...credentials.parse(JSON.parse(text)), url };
  } catch (cause) {
    throw new Fault("invalid", `${file} cannot be read: mend it, or remove it together with the database`, {
      reason: "CREDENTIALS_UNREADABLE",
      cause,
    });
  }
}

/** Replaces the file as a whole; only its owner can read it. */
export async function saveCredentials(home: string, value: Credentials): Promise<void> {
  const file = path.join(home, fileName);
  await writeFile(`${file}.new`, `${JSON.stringify(value, undefined, 2)}\n`, { mode: 0o600 });
  await rename(`${file}.new`, file);
}
