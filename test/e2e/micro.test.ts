import { execFile, execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import t, { type Test } from "tap";
import { buildMicro } from "#agent/images/micro/build.ts";
import { silentLogger } from "#kernel/log.ts";
import { until } from "#test/support/until.ts";

// The guest by itself, under a bare QEMU: what it promises to whoever boots it, whatever the driver does.

const run = promisify(execFile);
const bootLimitMs = 180_000;
const outDir = process.env["SKERRY_MICRO_DIR"] ?? join("node_modules", ".cache", "skerry", "micro");
const manifest = await buildMicro({ outDir, signal: AbortSignal.timeout(240_000), log: silentLogger });
const pathOf = (role: string) =>
  resolve(outDir, manifest.files.find((file) => file.role === role)?.path ?? "");

/** A guest with its serial console and its QEMU monitor. */
class Guest {
  readonly #serial: Socket;
  readonly #monitor: Socket;
  output = "";
  /** Its exit code, once QEMU has ended. */
  #ended: number | null | undefined;

  constructor(serial: Socket, monitor: Socket, exited: Promise<number | null>) {
    this.#serial = serial;
    this.#monitor = monitor;
    serial.on("data", (chunk: Buffer) => (this.output += chunk.toString("latin1")));
    monitor.resume();
    void exited.then((code) => (this.#ended = code));
    this.command("qmp_capabilities");
  }

  command(name: string, parameters: object = {}): void {
    this.#monitor.write(JSON.stringify({ execute: name, arguments: parameters }));
  }

  async prints(pattern: RegExp): Promise<RegExpExecArray> {
    await until(() => pattern.test(this.output) || this.#ended !== undefined, bootLimitMs);
    const found = pattern.exec(this.output);
    if (found) return found;
    throw new Error(`the guest ended before it printed ${String(pattern)}: ${this.output.slice(-2000)}`);
  }

  async ends(): Promise<number | null | undefined> {
    await until(() => this.#ended !== undefined, bootLimitMs);
    return this.#ended;
  }

  async logIn(): Promise<void> {
    await this.prints(/login: $/);
    this.#serial.write("root\n");
    await this.prints(/# /);
  }

  /** Runs a command in the guest's shell. */
  async sh(command: string): Promise<string> {
    const mark = randomBytes(4).toString("hex");
    // In two parts, so that the echo of the line is not taken for its output.
    const [left, right] = [mark.slice(0, 4), mark.slice(4)];
    this.#serial.write(`echo ${left}''${right}; ${command}; echo ${left}''${right}\n`);
    const found = await this.prints(new RegExp(`${mark}\\r?\\n([^]*?)${mark}\\r?\\n`));
    return (found[1] ?? "").replaceAll("\r", "").trim();
  }
}

async function boot(t: Test, directory: string, more: readonly string[] = []): Promise<Guest> {
  const pc = manifest.architecture === "x86_64";
  const serial = join(directory, "serial");
  const monitor = join(directory, "monitor");
  const args = [
    ...(pc ? ["-machine", "q35"] : ["-machine", "virt"]),
    ...[
      "-accel",
      "tcg,tb-size=64",
      "-cpu",
      "max",
      "-nodefaults",
      "-no-user-config",
      "-display",
      "none",
      "-no-reboot",
    ],
    ...["-smp", "1,maxcpus=2,sockets=2,cores=1,threads=1", "-m", "128,slots=2,maxmem=1G"],
    ...["-kernel", pathOf("kernel"), "-initrd", pathOf("initrd"), "-append", manifest.command_line],
    ...["-chardev", `socket,id=s0,path=${serial},server=on,wait=on`, "-serial", "chardev:s0"],
    ...["-qmp", `unix:${monitor},server=on,wait=on`],
    ...["-drive", `file=${join(directory, "root.qcow2")},if=none,id=root,format=qcow2`],
    ...["-device", "virtio-blk-pci,drive=root,id=disk"],
    ...more,
  ];
  const qemu = spawn(`qemu-system-${manifest.architecture}`, args, {
    stdio: "ignore",
  });
  t.teardown(() => qemu.kill("SIGKILL"));
  const exited = new Promise<number | null>((done) => qemu.once("exit", (code) => done(code)));
  return new Guest(await dial(serial), await dial(monitor), exited);
}

/** QEMU makes its sockets when it is ready for them. */
async function dial(path: string): Promise<Socket> {
  let socket: Socket | undefined;
  await until(async () => {
    socket = await new Promise<Socket | undefined>((done) => {
      const attempt = connect(path, () => done(attempt)).once("error", () => done(undefined));
    });
    return socket !== undefined;
  });
  socket!.on("error", () => undefined);
  return socket!;
}

async function workIn(t: Test): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "skerry-micro-"));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  await run("qemu-img", ["create", "-q", "-f", "qcow2", join(directory, "root.qcow2"), "1G"]);
  return directory;
}

async function seedIn(directory: string, files: Readonly<Record<string, string>>): Promise<string[]> {
  const iso = join(directory, "seed.iso");
  const source = t.testdir(files);
  await run("xorriso", [
    "-as",
    "genisoimage",
    "-quiet",
    "-volid",
    "CIDATA",
    "-joliet",
    "-rational-rock",
    "-output",
    iso,
    source,
  ]);
  return [
    "-drive",
    `file=${iso},if=none,id=seed,format=raw,readonly=on`,
    "-device",
    "virtio-blk-pci,drive=seed",
  ];
}

await t.test("a guest with everything", async (t) => {
  const directory = await workIn(t);
  const seed = await seedIn(directory, {
    "meta-data": `instance-id: "vm-1"\nlocal-hostname: web-1\npublic-keys:\n  - "ssh-ed25519 AAAAC3Nza+/= me@home"\n  - "ecdsa-sha2-nistp256 AAAAE2Vj= two"\n`,
    "user-data": "#!/bin/sh\necho user data ran on $(hostname)\n",
  });
  const network = ["-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-pci,netdev=n0,romfile="];
  const memory = [
    "-object",
    "memory-backend-ram,id=m1,size=256M",
    "-device",
    "virtio-mem-pci,id=vm1,memdev=m1,requested-size=0",
  ];
  const guest = await boot(t, directory, [...seed, ...network, ...memory]);

  const [, hostname, uptime] = await guest.prints(/skerry-micro ready (\S+) ([\d.]+)/);
  t.equal(hostname, "web-1", "its name comes from the seed");
  t.comment(`ready after ${String(uptime)} s of guest time`);
  await guest.prints(/user data ran on web-1/);
  await guest.logIn();

  t.equal(await guest.sh("hostname"), "web-1");
  t.same((await guest.sh("cat /root/.ssh/authorized_keys")).split("\n"), [
    "ssh-ed25519 AAAAC3Nza+/= me@home",
    "ecdsa-sha2-nistp256 AAAAE2Vj= two",
  ]);
  t.match(await guest.sh("cat /var/log/user-data.log"), /^user data ran/);
  t.match(await guest.sh("ip -4 addr show eth0"), /inet 10\.0\.2\.15\/24/, "DHCP gave it an address");
  t.match(await guest.sh("wget -qO- http://127.0.0.1/"), /web-1/, "its web server says who it is");
  t.match(
    await guest.sh("grep /data /proc/mounts"),
    /^\/dev\/vda \/data ext4 rw/,
    "the blank disk was formatted",
  );
  t.notMatch(guest.output, /did not load/, "every module loads");

  await t.test("grows while it runs", async (t) => {
    const sizeOf = async () => Number(await guest.sh("df -k /data | awk 'NR==2{print $2}'"));
    const before = await sizeOf();
    guest.command("block_resize", { device: "root", size: 3 * 1024 ** 3 });
    await until(async () => (await sizeOf()) > 2.5 * before);
    t.pass("its file system follows the disk");

    const memory = async () => Number(/MemTotal: +(\d+)/.exec(await guest.sh("cat /proc/meminfo"))?.[1]);
    const memoryBefore = await memory();
    guest.command("qom-set", {
      path: "/machine/peripheral/vm1",
      property: "requested-size",
      value: 256 * 1024 ** 2,
    });
    await until(async () => (await memory()) >= memoryBefore + 240 * 1024);
    t.pass("memory that is plugged in is used");

    if (manifest.architecture === "x86_64") {
      guest.command("device_add", {
        driver: "max-x86_64-cpu",
        "socket-id": 1,
        "core-id": 0,
        "thread-id": 0,
        id: "cpu1",
      });
      await until(async () => (await guest.sh("nproc")) === "2");
      t.pass("so is a processor");
    }
  });

  await guest.sh("echo kept > /data/note");
  const pressed = performance.now();
  guest.command("system_powerdown");
  t.equal(await guest.ends(), 0, "the power button ends it cleanly");
  t.comment(`off ${String(Math.round(performance.now() - pressed))} ms after the button`);

  await t.test("and finds its disk again, without a seed or a network", async (t) => {
    const again = await boot(t, directory);
    t.equal((await again.prints(/skerry-micro ready (\S+) /))[1], "micro");
    await again.logIn();
    t.equal(await again.sh("cat /data/note"), "kept");
    again.command("quit");
    await again.ends();
  });
});

await t.test("a guest that finds odd things", async (t) => {
  const directory = await workIn(t);
  const image = join(directory, "root.qcow2");
  const pattern = join(directory, "pattern");
  execFileSync("qemu-io", ["-f", "qcow2", "-c", "write -q -P 0xaa 0 64k", image]);
  await run("qemu-img", ["convert", "-O", "raw", image, pattern]);
  const seed = await seedIn(directory, {
    "meta-data": JSON.stringify({ "instance-id": "x", "local-hostname": "json-host" }),
    "user-data": "#cloud-config\npackages: [nginx]\n",
  });
  const guest = await boot(t, directory, seed);
  t.equal((await guest.prints(/skerry-micro ready (\S+) /))[1], "json-host", "meta-data may be JSON");
  await guest.prints(/user-data is not a script/);
  t.match(guest.output, /\/dev\/vda is neither blank nor ext4, left alone/);
  guest.command("system_powerdown");
  t.equal(await guest.ends(), 0);
  await run("qemu-img", ["convert", "-O", "raw", image, `${pattern}.after`]);
  t.ok(
    (await readFile(pattern)).equals(await readFile(`${pattern}.after`)),
    "somebody's data are as they were",
  );
});
