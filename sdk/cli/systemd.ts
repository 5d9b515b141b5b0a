/** The agent as a systemd service. */

export interface UnitOptions {
  readonly node: string;
  /** Arguments of node, the program last. */
  readonly args: readonly string[];
  readonly settingsFile: string;
  readonly workingDirectory: string;
}

export const unitName = "skerry-agent.service";
export const unitPath = `/etc/systemd/system/${unitName}`;

/**
 * The unit. KillMode=process is what lets machines outlive their agent: the default would kill every
 * process of the service's control group, guests included, at each restart and upgrade. For the same reason it has none
 * of systemd's sandboxes: what confines the agent confines guests and containers, and a mount namespace of its own
 * (PrivateTmp=, ProtectSystem= ...) would be another after a restart, without the mounts of containers that run on.
 */
export function renderUnit({ node, args, settingsFile, workingDirectory }: UnitOptions): string {
  return `[Unit]
Description=Skerry agent
After=network-online.target
Wants=network-online.target

[Service]
Type=simple
WorkingDirectory=${escapeSpecifiers(workingDirectory)}
EnvironmentFile=${escapeSpecifiers(settingsFile)}
ExecStart=${[node, ...args].map(quote).join(" ")}
KillMode=process
Restart=always
RestartSec=2
TimeoutStopSec=30
LimitNOFILE=65536
OOMPolicy=continue

[Install]
WantedBy=multi-user.target
`;
}

/** A path that is a whole line: blanks are part of it, and quotes would be, too. */
const escapeSpecifiers = (path: string): string => path.replaceAll("%", "%%");

/** One word of a command line: blanks and quotes need quoting. */
function quote(text: string): string {
  const escaped = escapeSpecifiers(text);
  return /^[\w@%+=:,./-]+$/.test(escaped) ? escaped : `"${escaped.replace(/["\\]/g, "\\$&")}"`;
}

/** Settings as an EnvironmentFile, one a line; sorted, so that files can be compared. */
export function formatEnvironment(settings: Readonly<Record<string, string>>): string {
  return Object.entries(settings)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => `${name}="${value.replace(/["\\$\`]/g, "\\$&")}"\n`)
    .join("");
}

/** Reads what {@link formatEnvironment} wrote. */
export function parseEnvironment(text: string): Record<string, string> {
  const settings: Record<string, string> = {};
  for (const line of text.split("\n")) {
    const [, name, value] = /^(\w+)="(.*)"$/.exec(line) ?? [];
    if (name !== undefined && value !== undefined) settings[name] = value.replace(/\\(["\\$`])/g, "$1");
  }
  return settings;
}
