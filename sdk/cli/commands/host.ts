/** `skerry host`: the machines that carry the cloud. */
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { Command } from "commander";
import { createCertificateRequest, newPrivateKey } from "#kernel/certificate-request.ts";
import type { Host } from "../../kinds/generated.ts";
import { configPath } from "../config.ts";
import type { Column, Field } from "../output.ts";
import type { Run, Session } from "../session.ts";
import { formatDuration, formatSize, parseDuration } from "../units.ts";
import { drainCommand } from "./host-drain.ts";
import { lostCommand } from "./host-lost.ts";
import { machinesCommand } from "./vm-adopt.ts";

/** All about hosts. */
export function hostCommand(run: Run): Command {
  const host = new Command("host").description("machines that carry the cloud");
  host
    .command("ls")
    .alias("list")
    .description("list hosts")
    .option("--provider <name>", "only those of this provider")
    .option("--region <name>", "only those in this region")
    .action(
      run(async (session, options: { provider?: string; region?: string }) => {
        const { hosts } = await session.cloud();
        session.out.list(await hosts.list(options, { signal: session.signal, pageSize: 500 }).all(), columns);
      }),
    );
  host
    .command("show")
    .description("show a host")
    .argument("<host>", "name or id")
    .action(
      run(async (session, name: string) => {
        const { hosts } = await session.cloud();
        const found = await hosts.find(name, { signal: session.signal });
        session.out.show(found, fieldsOf(found));
      }),
    );
  host.addCommand(machinesCommand(run));
  host
    .command("token")
    .description("make a token that lets one host join")
    .option("--name <host>", "only a host of this name may use it")
    .option("--expires <duration>", "how long it may be used (default: 1h)", parseDuration)
    .action(run(issueToken));
  host
    .command("cert")
    .description("get a short-lived client certificate for the agents' own ports")
    .option("--out <folder>", "where to write key.pem, certificate.pem and authorities.pem")
    .action(run(issueCertificate));
  for (const verb of ["cordon", "uncordon"] as const) {
    host
      .command(verb)
      .description(
        verb === "cordon" ? "let a host take no new machines" : "let a host take new machines again",
      )
      .argument("<host>", "name or id")
      .action(
        run(async (session, name: string) => {
          const { hosts } = await session.cloud();
          const { id } = await hosts.find(name, { signal: session.signal });
          const changed = await hosts[verb](id, { signal: session.signal });
          const takes = changed.spec.cordoned ? "takes no new machines" : "takes new machines";
          session.out.done(`${changed.name} ${takes}.`, changed);
        }),
      );
  }
  host.addCommand(drainCommand(run));
  host.addCommand(lostCommand(run));
  host
    .command("rm")
    .alias("remove")
    .description("remove a host from the cloud; its agent is no longer let in")
    .argument("<host>", "name or id")
    .action(
      run(async (session, name: string) => {
        const { hosts } = await session.cloud();
        const { id, name: found } = await hosts.find(name, { signal: session.signal });
        await hosts.delete(id, { signal: session.signal });
        session.out.done(`${found} is being removed.`, { id, name: found });
      }),
    );
  return host;
}

async function issueToken(session: Session, options: { name?: string; expires?: number }): Promise<void> {
  const { enrolmentTokens } = await session.cloud();
  const { name, expires } = options;
  const spec = {
    ...(name !== undefined && { host_name: name }),
    ...(expires !== undefined && { expires_in_seconds: Math.round(expires / 1000) }),
  };
  const issued = await enrolmentTokens.issue({ name: name ?? "enrolment", spec }, { signal: session.signal });
  session.out.raw(session.out.format === "table" ? `${issued.token}\n` : "");
  if (session.out.format !== "table") session.out.done("", issued);
  session.note("Shown this once. On the new host run:");
  session.note(
    `  skerry agent join --gateway ${issued.gateway}${name ? ` --name ${name}` : ""} --token <token>`,
  );
}

async function issueCertificate(session: Session, options: { out?: string }): Promise<void> {
  const folder = resolve(options.out ?? join(dirname(configPath(session.terminal.env)), "operator"));
  const { hosts } = await session.cloud();
  const key = newPrivateKey();
  const issued = await hosts.issueCertificate(createCertificateRequest(key), { signal: session.signal });
  const files = {
    key: join(folder, "key.pem"),
    certificate: join(folder, "certificate.pem"),
    authorities: join(folder, "authorities.pem"),
  };
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await writeFile(files.key, key.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
  await writeFile(files.certificate, issued.certificate, { mode: 0o600 });
  await writeFile(files.authorities, issued.authorities, { mode: 0o600 });
  session.out.show(files, Object.entries(files));
}

const columns: readonly Column<Host>[] = [
  { title: "NAME", value: (r) => r.name },
  { title: "ID", value: (r) => r.id },
  { title: "PHASE", value: (r) => r.phase, phase: true },
  { title: "PROVIDER", value: (r) => r.spec.provider },
  { title: "REGION", value: (r) => r.spec.region },
  { title: "CPUS", value: (r) => String(r.status?.capacity.cpus ?? ""), align: "right" },
  {
    title: "MEMORY",
    value: (r) => (r.status ? formatSize(r.status.capacity.memory_bytes) : ""),
    align: "right",
  },
  { title: "DISK", value: (r) => (r.status ? formatSize(r.status.capacity.disk_bytes) : ""), align: "right" },
  { title: "DRIVER", value: (r) => (r.status ? `${r.status.driver}/${r.status.acceleration}` : "") },
  { title: "NEW VMS", value: (r) => (r.spec.cordoned ? "no" : "yes") },
];

function fieldsOf(r: Host): readonly Field[] {
  const { spec, status, problem } = r;
  const { location, prices } = spec;
  return [
    ["name", r.name],
    ["id", r.id],
    ["phase", r.phase],
    ["problem", problem ? `${problem.message} (${problem.reason})` : ""],
    ["not heard of", status?.silence ? `since ${status.silence.since}: ${status.silence.message}` : ""],
    ["doubtful", status?.doubts?.join("; ") ?? ""],
    ["place", [spec.provider, spec.region, spec.zone].filter(Boolean).join(" / ")],
    [
      "location",
      location ? `${location.city}, ${location.country} (${location.latitude}, ${location.longitude})` : "",
    ],
    [
      "prices",
      prices
        ? `${prices.cpu_per_hour} a CPU hour, ${prices.memory_per_gb} a GB hour, ${prices.currency}`
        : "",
    ],
    ["takes new vms", spec.cordoned ? "no" : "yes"],
    [
      "cpus",
      status
        ? `${status.capacity.cpus} x${spec.overcommit.cpus} (${status.cpu_model}, ${status.cpu_baseline})`
        : "",
    ],
    ["memory", status ? `${formatSize(status.capacity.memory_bytes)} x${spec.overcommit.memory}` : ""],
    ["disk", status ? `${formatSize(status.capacity.disk_bytes)} x${spec.overcommit.disk}` : ""],
    ["driver", status ? `${status.driver} ${status.driver_version}` : ""],
    ["acceleration", status ? `${status.acceleration}: ${status.acceleration_reason}` : ""],
    ["capabilities", status?.capabilities.join(", ") ?? ""],
    ["containers' gpus", gpusOf(r)],
    ["system", status ? `${status.operating_system}, ${status.kernel}, ${status.architecture}` : ""],
    ["agent", status ? `${status.agent_version} at ${status.listen_address || "no address"}` : ""],
    ["unknown machines", status?.unknown_machines.join(", ") ?? ""],
    ["joined", `${formatDuration(Date.now() - Date.parse(r.created_at))} ago`],
  ];
}

/** What containers may be given, and what is wrong with it. */
function gpusOf({ status }: Host): string {
  const { gpus = [], gpu_problems: problems = [] } = status?.containers ?? {};
  const named = gpus.map(({ device, model }) => (model === "" ? device : `${device} (${model})`));
  return [...named, ...problems.map((problem) => `problem: ${problem}`)].join("\n");
}
