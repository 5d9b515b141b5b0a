/**
 * The public cloud images that come by name. Only names and addresses: nothing is fetched until an
 * instance asks for one. Aliases are stored as {@link normaliseImageName} writes them.
 */
import { seedIdOf, seedIdStart } from "../seed-id.ts";
import { normaliseImageName, type ImageSpec } from "./image.resource.ts";

export interface ImageSeed {
  readonly id: string;
  readonly name: string;
  readonly spec: ImageSpec;
}

type Architecture = ImageSpec["architecture"];

interface Distribution {
  /** Its name, which is also that of its x86_64 image. */
  readonly name: string;
  readonly description: string;
  readonly os: readonly [name: string, version: string];
  readonly aliases: readonly string[];
  /** What each architecture is called in `url` and `checksums`, in place of `{arch}`. */
  readonly architectures: Readonly<Partial<Record<Architecture, string>>>;
  readonly url: string;
  readonly checksums: string;
}

const debianNames = { x86_64: "amd64", aarch64: "arm64" } as const;
const gnuNames = { x86_64: "x86_64", aarch64: "aarch64" } as const;

const ubuntu = (version: string, codename: string, aliases: readonly string[]): Distribution => ({
  name: `ubuntu-${version}`,
  description: `Ubuntu Server ${version} LTS`,
  os: ["Ubuntu", version],
  aliases: [
    `ubuntu-${version}-lts`,
    `ubuntu-${codename}`,
    `ami-ubuntu${version.replace(".", "")}`,
    `ubuntu${version.replace(".", "")}`,
    ...aliases,
  ],
  architectures: debianNames,
  url: `https://cloud-images.ubuntu.com/releases/${codename}/release/ubuntu-${version}-server-cloudimg-{arch}.img`,
  checksums: `https://cloud-images.ubuntu.com/releases/${codename}/release/SHA256SUMS`,
});

const debian = (version: string, codename: string, aliases: readonly string[]): Distribution => ({
  name: `debian-${version}`,
  description: `Debian ${version} (${codename})`,
  os: ["Debian", version],
  aliases: [`debian-${codename}`, `ami-debian${version}`, `debian${version}`, ...aliases],
  architectures: debianNames,
  url: `https://cloud.debian.org/images/cloud/${codename}/latest/debian-${version}-genericcloud-{arch}.qcow2`,
  checksums: `https://cloud.debian.org/images/cloud/${codename}/latest/SHA512SUMS`,
});

const rocky = (version: string, aliases: readonly string[]): Distribution => {
  const url = `https://dl.rockylinux.org/pub/rocky/${version}/images/{arch}/Rocky-${version}-GenericCloud-Base.latest.{arch}.qcow2`;
  return {
    name: `rocky-${version}`,
    description: `Rocky Linux ${version}`,
    os: ["Rocky Linux", version],
    aliases: [`rockylinux-${version}`, `rocky-linux-${version}`, ...aliases],
    architectures: gnuNames,
    url,
    checksums: `${url}.CHECKSUM`,
  };
};

const centos = (version: string, aliases: readonly string[]): Distribution => {
  const url = `https://cloud.centos.org/centos/${version}-stream/{arch}/images/CentOS-Stream-GenericCloud-${version}-latest.{arch}.qcow2`;
  return {
    name: `centos-stream-${version}`,
    description: `CentOS Stream ${version}`,
    os: ["CentOS Stream", version],
    aliases: [`centos-${version}`, ...aliases],
    architectures: gnuNames,
    url,
    checksums: `${url}.SHA256SUM`,
  };
};

const alpineImage =
  "https://dl-cdn.alpinelinux.org/alpine/v3.21/releases/cloud/nocloud_alpine-3.21.0-{arch}-{firmware}-cloudinit-r0.qcow2";

const distributions: readonly Distribution[] = [
  ubuntu("24.04", "noble", []),
  ubuntu("22.04", "jammy", ["ubuntu"]),
  ubuntu("20.04", "focal", []),
  debian("12", "bookworm", ["debian"]),
  debian("11", "bullseye", []),
  rocky("9", ["rocky", "rockylinux"]),
  rocky("8", []),
  centos("9", ["centos"]),
  {
    name: "almalinux-9",
    description: "AlmaLinux 9",
    os: ["AlmaLinux", "9"],
    aliases: ["almalinux", "alma-9"],
    architectures: gnuNames,
    url: "https://repo.almalinux.org/almalinux/9/cloud/{arch}/images/AlmaLinux-9-GenericCloud-latest.{arch}.qcow2",
    checksums: "https://repo.almalinux.org/almalinux/9/cloud/{arch}/images/CHECKSUM",
  },
  {
    name: "fedora-41",
    description: "Fedora Cloud 41",
    os: ["Fedora", "41"],
    aliases: ["fedora"],
    architectures: gnuNames,
    url: "https://download.fedoraproject.org/pub/fedora/linux/releases/41/Cloud/{arch}/images/Fedora-Cloud-Base-Generic-41-1.4.{arch}.qcow2",
    checksums:
      "https://download.fedoraproject.org/pub/fedora/linux/releases/41/Cloud/{arch}/images/Fedora-Cloud-41-1.4-{arch}-CHECKSUM",
  },
  {
    name: "alpine-3.21",
    description: "Alpine Linux 3.21",
    os: ["Alpine Linux", "3.21"],
    aliases: ["alpine", "alpine-3"],
    architectures: gnuNames,
    url: alpineImage,
    checksums: `${alpineImage}.sha512`,
  },
];

/** How a published image starts: older firmware on PCs, UEFI on ARM. */
const firmware: Record<Architecture, string> = { x86_64: "bios", aarch64: "uefi" };

/** The id of the image that the catalogue has under a name. */
export const seedId = (name: string) => seedIdOf("image", "img", normaliseImageName(name));

/** Whether an image is one of the catalogue's, and not somebody's own. */
export function isCatalogueImage(id: string): boolean {
  return id.startsWith(seedIdStart("img"));
}

/** Makes a seed; its aliases are what else it is called, in the form in which names are compared. */
export function toSeed(name: string, spec: ImageSpec, aliases: readonly string[]): ImageSeed {
  const all = [name, ...aliases].map(normaliseImageName);
  return {
    id: seedId(name),
    name,
    spec: { ...spec, aliases: [...new Set(all)] },
  };
}

/** Every public image of the catalogue. */
export const catalogue: readonly ImageSeed[] = distributions.flatMap(toSeeds);

function toSeeds(distribution: Distribution): ImageSeed[] {
  return Object.entries(distribution.architectures).map(([key, word]) => {
    const architecture = key as Architecture;
    const suffix = architecture === "x86_64" ? "" : "-arm64";
    const fill = (text: string) =>
      text.replaceAll("{arch}", word).replaceAll("{firmware}", firmware[architecture]);
    const spec: ImageSpec = {
      type: "disk",
      architecture,
      aliases: [],
      description: distribution.description,
      command_line: "",
      os: { type: "linux", name: distribution.os[0], version: distribution.os[1] },
      min_disk_bytes: 0,
      source: {
        type: "url",
        url: fill(distribution.url),
        sha256: null,
        checksums_url: fill(distribution.checksums),
      },
    };
    const aliases = distribution.aliases.map((alias) => `${alias}${suffix}`);
    return toSeed(`${distribution.name}${suffix}`, spec, aliases);
  });
}
