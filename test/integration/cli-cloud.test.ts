/** The command against a real cloud, whose hosts are agents with fake machines. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { createAgentClients } from "#sdk/agent.ts";
import type { Host } from "#sdk/index.ts";
import { makeHome } from "#test/support/cli-world.ts";
import { startCloud } from "#test/support/cloud.ts";
import { runInProcess } from "#test/support/command-line.ts";

await t.test("with a real cloud: create, show, resize, stop, start, remove", async (t) => {
  let gateway = 0;
  const gatewayPort = (port: number) => Promise.resolve((gateway = port));
  const cloud = await startCloud(t, { gatewayPort });
  const home = await makeHome(t);
  const env = { XDG_CONFIG_HOME: home, SKERRY_HOME: home, SKERRY_URL: cloud.url, SKERRY_TOKEN: cloud.apiKey };
  const skerry = async (...args: string[]) => {
    const ran = await runInProcess(args, env);
    t.equal(ran.code, 0, `${args.join(" ")}\n${ran.err}`);
    return ran.out;
  };
  for (const name of ["site-1", "site-2"])
    t.match(await skerry("host", "ls"), new RegExp(`^${name} .* online `, "m"));
  t.match(await skerry("image", "ls"), /^micro /m);
  t.match(
    await skerry("vm", "create", "web", "--image", "micro", "--wait"),
    /^web \(vm-\w+\) is running\.\n$/,
  );
  const shown = JSON.parse(await skerry("vm", "show", "web", "-o", "json")) as { phase: string; id: string };
  t.equal(shown.phase, "running");
  t.match(await skerry("vm", "placement", shown.id), /^What would change the answer:/m);
  t.match(await skerry("vm", "console", "web", "--log", "--for", "0.5s"), /\S/);
  t.match(await skerry("vm", "log", "web"), /\S/);
  await skerry("vm", "metrics", "web", "--since", "10m");
  await skerry("host", "cert", "--out", join(home, "op"));
  const [certificate, key, authorities] = await Promise.all(
    ["certificate", "key", "authorities"].map((name) => readFile(join(home, "op", `${name}.pem`), "utf8")),
  );
  const { id: hostId, status } = JSON.parse(await skerry("host", "show", "site-1", "-o", "json")) as Host;
  const address = status?.listen_address ?? "";
  const agent = createAgentClients({
    address,
    hostId,
    certificate: certificate ?? "",
    key: key ?? "",
    authorities: authorities ?? "",
  });
  t.equal((await agent.host.getHost({})).name, "site-1", "an operator reaches an agent without the cloud");
  const { provider, region } = (shown as unknown as { placement: Record<string, string> }).placement;
  const [elsewhere] = (JSON.parse(await skerry("host", "ls", "-o", "json")) as Host[]).filter(
    ({ spec }) => spec.provider !== provider,
  );
  const to = `${elsewhere?.spec.provider ?? ""}/${elsewhere?.spec.region ?? ""}`;
  t.match(await skerry("vm", "migrate", "web", "--to", to, "--dry-run"), /^possible: +yes$/m);
  const moved = await skerry("vm", "migrate", "web", "--to", to, "--max-downtime", "2s");
  t.match(moved, /^phase: +complete$/m);
  t.match(moved, new RegExp(`^to: +${to} `, "m"));
  t.match(moved, /^downtime: +[\d.]+ m?s \(source [\d.]+ m?s, target [\d.]+ m?s\)$/m);
  t.match(await skerry("vm", "show", "web"), new RegExp(`^host: +${elsewhere?.name ?? ""}$`, "m"));
  const back = `${provider ?? ""}/${region ?? ""}`;
  t.match(await skerry("vm", "migrate", "web", "--to", back, "--detach"), /is being moved by mig-\w+/);
  t.match(await skerry("migration", "show", "web", "--follow"), /^phase: +complete$/m);
  t.match(await skerry("migration", "ls", "--vm", "web"), /(^mig-\w+ +web +complete .*\n){2}/m);
  const headers = { authorization: `Token ${cloud.apiKey}` };
  const listed = await fetch(`${cloud.url}/v1/migrations?status=completed`, { headers });
  t.match(await listed.json(), {
    migrations: [
      { vm_id: shown.id, phase: "complete", source_provider: provider, downtime: /^[\d.]+m?s$/ },
      { phase: "complete", target_provider: provider, data_transferred: Number, compression_ratio: Number },
    ],
    total: 2,
  });
  t.match(await skerry("vm", "resize", "web", "--disk", "8g", "--wait"), /is running/);
  t.match(await skerry("vm", "show", "web"), /^disk: +8 GiB$/m);
  t.match(await skerry("vm", "stop", "web", "--wait"), /is stopped/);
  t.match(await skerry("vm", "start", "web", "--wait"), /is running/);
  t.match(await skerry("op", "ls"), /OPERATION/);
  t.match(await skerry("host", "cordon", "site-1"), /takes no new machines/);
  t.match(await skerry("host", "uncordon", "site-1"), /takes new machines/);
  const token = (await skerry("host", "token", "--name", "edge")).trim();
  t.match(token, /^tok-\w+\.[\w-]+\.[\w-]{43}$/);
  const data = join(home, "agent");
  const place = ["--name", "edge", "--provider", "lab", "--listen", "127.0.0.1:0", "--driver", "fake"];
  const at = `127.0.0.1:${String(gateway)}`;
  const joined = await skerry("agent", "join", "--gateway", at, "--token", token, "--data", data, ...place);
  t.match(joined, /^This machine is host-\w+\./);
  t.match(await skerry("host", "show", "edge"), /^place: +lab \/ local$/m);
  t.match(await skerry("agent", "status", "--data", data), /^process: +not running$/m);
  const again = ["agent", "join", "--gateway", at, "--token", token, "--data", data];
  t.match(await runInProcess(again, env), { code: 1, err: /ALREADY_JOINED/ });
  t.equal(await skerry("vm", "rm", "web", "--wait"), "web is gone.\n");
  t.equal((await skerry("vm", "ls")).split("\n").length, 2, "only the heading is left");
});
