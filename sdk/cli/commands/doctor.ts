/** `skerry doctor`: what is wrong and how to mend it. */
import { Command } from "commander";
import { Fault, isFault, toFault } from "#kernel/fault.ts";
import { findAgentHomes } from "../agent-home.ts";
import { localHomes, type Connection } from "../connection.ts";
import { checkCertificate } from "../doctor/certificates.ts";
import { canConnect, checkAccess, checkApi, checkPort } from "../doctor/cloud.ts";
import { fail, ok, warn, type Finding } from "../doctor/finding.ts";
import { checkKvm } from "../doctor/kvm.ts";
import { checkDisk, checkNode, checkQemu, checkTools, findLibvirt } from "../doctor/machine.ts";
import { Output } from "../output.ts";
import type { Run, Session } from "../session.ts";

/** The command that looks at everything; it ends with 1 when something fails. */
export function doctorCommand(run: Run): Command {
  return new Command("doctor")
    .description("look for what is wrong, here and in the cloud, and say how to mend it")
    .option("--json", "the same as --output json")
    .action(
      run(async (session, options: { json?: true }) => {
        const findings = await examine(session);
        const { stdout } = session.terminal;
        const out = options.json ? new Output({ sink: stdout, format: "json", colour: false }) : session.out;
        out.list(findings, [
          { title: "CHECK", value: (each) => each.name },
          { title: "STATE", value: (each) => each.status, phase: true },
          { title: "WHAT", value: (each) => each.detail },
        ]);
        if (out.format === "table") {
          for (const { name, remedy } of findings) if (remedy !== "") out.raw(`${name}: ${remedy}\n`);
        }
        const failed = findings.filter((each) => each.status === "fail").length;
        if (failed > 0) {
          const message = `${failed} of ${findings.length} checks failed`;
          throw new Fault("conflict", message, { reason: "CHECKS_FAILED" });
        }
      }),
    );
}

async function examine(session: Session): Promise<readonly Finding[]> {
  const { signal } = session;
  const homes = localHomes(session.terminal.env);
  const agentHomes = await findAgentHomes(homes);
  const runsGuests = agentHomes.length > 0;
  const qemu = await checkQemu(runsGuests, signal);
  return [
    checkNode(),
    qemu,
    await checkTools(runsGuests, signal),
    ...(qemu.status === "ok" ? [await checkKvm(agentHomes, signal)] : []),
    ...(await findLibvirt(signal)),
    await checkDisk(agentHomes[0] ?? homes[0] ?? process.cwd()),
    ...(await Promise.all(agentHomes.map(checkCertificate))),
    ...(await examineCloud(session)),
  ];
}

async function examineCloud(session: Session): Promise<readonly Finding[]> {
  let connection: Connection;
  try {
    connection = await session.connection();
  } catch (thrown) {
    const fault = toFault(thrown);
    const remedy = isFault(fault, "unauthenticated")
      ? "npm start, or skerry login --url URL"
      : "see the message";
    return [fail("api", fault.message, remedy), ...(await freePorts(session))];
  }
  const api = await checkApi(connection.url, session.signal);
  const reachable = api[0]?.status === "ok";
  const { hostname, port, protocol } = new URL(connection.url);
  const local = ["127.0.0.1", "localhost", "[::1]"].includes(hostname);
  const apiPort = Number(port || (protocol === "https:" ? 443 : 80));
  const findings = [...api];
  if (reachable) findings.push(...(await checkAccess(await session.cloud(), session.signal)));
  if (local) findings.push(await checkPort("PORT", "127.0.0.1", apiPort, reachable));
  if (reachable) findings.push(await checkGateway(session, hostname));
  return findings;
}

/** With no cloud known, its usual ports should at least be free. */
async function freePorts({ terminal: { env } }: Session): Promise<readonly Finding[]> {
  return [
    await checkPort("PORT", "127.0.0.1", Number(env["PORT"] ?? 8000), false),
    await checkPort("SKERRY_GATEWAY_PORT", "127.0.0.1", gatewayPort(env), false),
  ];
}

const gatewayPort = (env: Session["terminal"]["env"]): number => Number(env["SKERRY_GATEWAY_PORT"] ?? 8001);

async function checkGateway({ terminal: { env } }: Session, hostname: string): Promise<Finding> {
  const port = gatewayPort(env);
  return (await canConnect(hostname, port))
    ? ok("gateway", `${hostname}:${port} accepts agents`)
    : warn(
        "gateway",
        `nothing answers at ${hostname}:${port}`,
        "set SKERRY_GATEWAY_PORT if it is elsewhere; open it for agents",
      );
}
