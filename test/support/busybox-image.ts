/** An OCI archive of a few busybox programs, made from what the guest `micro` is built of: no network is needed. */
import { createHash } from "node:crypto";
import { copyFile, mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { exec } from "#agent/exec.ts";
import { loadMicro, microDirectory } from "./micro.ts";

const programs = ["sh", "sleep", "true", "false", "cat", "echo", "httpd", "wget"];

/** Makes the archive in a folder, which must exist; gives its path and its SHA-256. */
export async function makeBusyboxImage(directory: string): Promise<{ path: string; sha256: string }> {
  const options = { signal: AbortSignal.timeout(60_000), timeoutMs: 60_000 };
  await loadMicro();
  const downloads = `${microDirectory()}.packages`;
  const name = (await readdir(downloads)).find((entry) => /^busybox-static.*\.deb$/.test(entry));
  if (name === undefined) throw new Error("the guest's packages are not there");
  const at = (part: string) => join(directory, part);
  const [unpacked, root, layout] = [at("deb"), at("root"), at("layout")];
  await exec("dpkg-deb", ["-x", join(downloads, name), unpacked], options);
  for (const folder of ["bin", "tmp", "www"]) await mkdir(join(root, folder), { recursive: true });
  await copyFile(await findBusybox(unpacked), join(root, "bin/busybox"));
  for (const program of programs) await symlink("busybox", join(root, "bin", program));
  await writeFile(join(root, "www/index.html"), "served from a container\n");
  const layer = join(directory, "layer.tar");
  await exec("tar", ["-C", root, "-cf", layer, "."], options);

  const put = async (content: Uint8Array) => {
    const sha256 = digestOf(content);
    await mkdir(join(layout, "blobs/sha256"), { recursive: true });
    await writeFile(join(layout, "blobs/sha256", sha256), content);
    return { digest: `sha256:${sha256}`, size: content.byteLength };
  };
  const media = (type: string) => `application/vnd.oci.image.${type}`;
  const putJson = (value: unknown) => put(Buffer.from(JSON.stringify(value)));
  const stored = await put(await readFile(layer));
  const config = await putJson({
    architecture: process.arch === "arm64" ? "arm64" : "amd64",
    os: "linux",
    config: { Cmd: ["httpd", "-f", "-p", "8080", "-h", "/www"], Env: ["PATH=/bin"] },
    rootfs: { type: "layers", diff_ids: [stored.digest] },
  });
  const manifest = await putJson({
    schemaVersion: 2,
    mediaType: media("manifest.v1+json"),
    config: { mediaType: media("config.v1+json"), ...config },
    layers: [{ mediaType: media("layer.v1.tar"), ...stored }],
  });
  const index = { schemaVersion: 2, manifests: [{ mediaType: media("manifest.v1+json"), ...manifest }] };
  await writeFile(join(layout, "index.json"), JSON.stringify(index));
  await writeFile(join(layout, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
  const path = join(directory, "image.tar");
  await exec("tar", ["-C", layout, "-cf", path, "."], options);
  return { path, sha256: digestOf(await readFile(path)) };
}

function digestOf(content: Uint8Array): string {
  return createHash("sha256").update(content).digest("hex");
}

async function findBusybox(unpacked: string): Promise<string> {
  const names = await readdir(unpacked, { recursive: true });
  const found = names.find((name) => /(^|\/)bin\/busybox$/.test(name));
  if (found === undefined) throw new Error("there is no busybox in its package");
  return join(unpacked, found);
}
