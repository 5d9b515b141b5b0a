/** The agent as a systemd service. */

export interface UnitOptions {
  readonly node: string;
  /** Arguments of node, the program last. */
  readonly args: readonly string[];
  readonly settingsFile: string;
  readonly workingDirectory: string;
}

export const unitPath = "/etc/systemd/system/skerry-agent.service";

/**
 * The unit. KillMode=process is what lets machines outlive their agent: the default would kill every
 * process of the service's control group, guests included, at each restart and upgrade.
 */
export function renderUnit({ node, args, settingsFile, workingDirectory }: UnitOptions): string {
  return `[Unit]
Description=Skerry agent
After=network-online.target
Wants=network-online.target

[Service]
Type=simple
WorkingDirectory=${quote(workingDirectory)}
EnvironmentFile=${quote(settingsFile)}
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

/** Per cent signs are specifiers to systemd, blanks and quotes need quoting. */
function quote(text: string): string {
  const escaped = text.replaceAll("%", "%%");
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
