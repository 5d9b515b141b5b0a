/**
 * A libvirt of one's own: a daemon in private mount and host-name namespaces, whose files are all below one folder. Two of
 * them are two hosts that share nothing, paths included, and whatever libvirt the machine runs is not touched.
 */
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { exec } from "#agent/exec.ts";
import { until } from "./until.ts";

export interface LibvirtHost extends AsyncDisposable {
  readonly directory: string;
  readonly uri: string;
  /** The daemon's `/run`, as it is to be found from outside. */
  readonly runtime: { readonly here: string; readonly there: string };
  /** The host's folder for machines; short, for sockets are made below it. */
  readonly machines: string;
  /** Runs virsh on this host. */
  virsh(...args: string[]): Promise<string>;
  /** Kills the QEMU of a domain. */
  crash(name: string): Promise<void>;
  /** Kills the daemon at once; machines run on, and it is started again. Resolves when it answers. */
  kill(): Promise<void>;
  /** Stops the daemon; machines run on. `start` brings it back. */
  stop(): Promise<void>;
  start(): Promise<void>;
}

const privileged = process.getuid?.() === 0;
/** Namespaces of which only root, if any, may make the last; a plain user gets them in one where it is nearly root. */
const namespaces = ["--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"];
const rights = privileged ? [] : ["--user", "--map-current-user"];

// The package for whole systems makes the user that libvirt runs QEMU as; here it is made where only the daemon sees it.
// A device that may be opened but does not work would have libvirt try out QEMU at every step. The shell stays, as the first
// process: libvirt takes a QEMU that nobody has waited for as one that still runs.
const live = `
set -e
cd "$1"
hostname "$2"
mount --make-rprivate /
touch kvm && chmod 0 kvm
[ ! -e /dev/kvm ] || mount --bind kvm /dev/kvm
grep -q '^libvirt-qemu:' /etc/passwd || { mount --bind passwd /etc/passwd; mount --bind group /etc/group; }
mount --bind etc /etc/libvirt
mount --bind log /var/log
mount --bind cache /var/cache
mount --bind lib /var/lib
mount --bind run /run
while :; do
  libvirtd -f "$1/libvirtd.conf" -p "$1/libvirtd.pid" &
  wait $! || :
  while [ -e "$1/stopped" ]; do sleep 0.1; done
done
`;

/** Starts a host with a daemon that answers. */
export async function startLibvirtHost(name: string): Promise<LibvirtHost> {
  const directory = await mkdtemp(path.join(tmpdir(), "lv-"));
  const at = (...parts: string[]) => path.join(directory, ...parts);
  for (const folder of ["etc", "log/libvirt", "cache", "lib", "run", "sock", "machines", "home"]) {
    await mkdir(at(folder), { recursive: true });
  }
  const user = "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin\n";
  await writeFile(at("passwd"), (await readFile("/etc/passwd", "utf8")) + user);
  await writeFile(at("group"), `${await readFile("/etc/group", "utf8")}libvirt-qemu:x:64055:\n`);
  const settings = {
    unix_sock_dir: at("sock"),
    unix_sock_rw_perms: "0700",
    auth_unix_rw: "none",
    auth_unix_ro: "none",
    host_uuid: randomUUID(),
    log_outputs: `3:file:${at("libvirtd.log")}`,
  };
  const lines = Object.entries(settings).map(([key, value]) => `${key} = ${JSON.stringify(value)}\n`);
  await writeFile(at("libvirtd.conf"), lines.join(""));
  const qemu = 'stdio_handler = "file"\ncgroup_controllers = []\nnamespaces = []\n';
  await writeFile(at("etc", "qemu.conf"), qemu);
  await mkdir(at("home", ".config", "libvirt"), { recursive: true });
  await writeFile(at("home", ".config", "libvirt", "qemu.conf"), qemu);
  const socket = privileged ? at("sock", "libvirt-sock") : at("run", "libvirt", "libvirt-sock");
  const uri = `qemu+unix:///${privileged ? "system" : "session"}?socket=${socket}`;
  const virsh = async (...args: string[]) => {
    const signal = AbortSignal.timeout(60_000);
    return (await exec("virsh", ["--quiet", "--connect", uri, ...args], { signal, timeoutMs: 60_000 }))
      .stdout;
  };
  const answers = () =>
    virsh("version").then(
      () => true,
      () => false,
    );
  const home = { HOME: at("home"), XDG_RUNTIME_DIR: "/run", XDG_CONFIG_HOME: at("home", ".config") };
  const init = spawn("unshare", [...rights, ...namespaces, "sh", "-c", live, "sh", directory, name], {
    stdio: "ignore",
    env: { ...process.env, ...home },
  });
  /** Sends a signal to a process by the pid that it has in its own namespace. */
  const inside = async (signal: string, pidFile: string) => {
    const [target = ""] = (
      await readFile(`/proc/${String(init.pid)}/task/${String(init.pid)}/children`, "utf8")
    ).split(" ");
    const into = [...(privileged ? [] : ["--user", "--preserve-credentials"]), "--mount", "--pid"];
    const kill = ["sh", "-c", 'kill -s "$1" "$(cat "$2")"', "sh", signal, pidFile];
    const limits = { signal: AbortSignal.timeout(60_000), timeoutMs: 10_000 };
    await exec("nsenter", ["--target", target, ...into, ...kill], limits);
  };
  const host: LibvirtHost = {
    directory,
    uri,
    runtime: { here: at("run", "skerry"), there: "/run/skerry" },
    machines: at("machines"),
    virsh,
    crash: (domain) => {
      const folder = privileged ? "/run/libvirt/qemu" : "/run/libvirt/qemu/run";
      return inside("KILL", `${folder}/${domain}.pid`);
    },
    kill: async () => {
      await inside("KILL", at("libvirtd.pid"));
      await until(answers);
    },
    stop: async () => {
      await writeFile(at("stopped"), "");
      await inside("TERM", at("libvirtd.pid"));
      await until(async () => !(await answers()));
    },
    start: async () => {
      await rm(at("stopped"), { force: true });
      await until(answers);
    },
    [Symbol.asyncDispose]: async () => {
      const ended = once(init, "exit");
      init.kill("SIGKILL");
      await ended;
      await rm(directory, { recursive: true, force: true });
    },
  };
  await host.start();
  return host;
}
