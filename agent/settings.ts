/** The settings of an agent: environment variables that begin with SKERRY_AGENT_. */
import os from "node:os";
import { logLevels } from "#kernel/log.ts";
import { flag, integer, list, number, oneOf, readSettings, type SettingsOf, text } from "#kernel/settings.ts";

const optional: string | undefined = undefined;

export const agentSettings = {
  data: text({
    env: "SKERRY_AGENT_DATA",
    default: "/var/lib/skerry-agent",
    help: "Folder of everything the agent keeps: identity, ledger, images, machines.",
  }),
  gateways: list({
    env: "SKERRY_AGENT_GATEWAY",
    default: [],
    help: "Addresses of the control plane's gateways, host:port, separated by commas.",
  }),
  token: text({
    env: "SKERRY_AGENT_TOKEN",
    default: optional,
    secret: true,
    help: "Enrolment token; needed once, for a host that has not joined.",
  }),
  name: text({ env: "SKERRY_AGENT_NAME", default: os.hostname(), help: "Name of the host in its cloud." }),
  labelsFile: text({
    env: "SKERRY_AGENT_LABELS_FILE",
    default: optional,
    help: "JSON file with the host's provider, region, zone, location, prices and labels.",
  }),
  driver: oneOf({
    env: "SKERRY_AGENT_DRIVER",
    values: ["qemu", "libvirt", "fake"],
    default: "qemu",
    help: "What runs the machines.",
  }),
  containers: oneOf({
    env: "SKERRY_AGENT_CONTAINERS",
    values: ["auto", "off"],
    default: "auto",
    help: "Whether this host runs containers, if it can.",
  }),
  registries: list({
    env: "SKERRY_AGENT_REGISTRIES",
    default: [],
    help: "Registries, host or host:port, that containers' images may come from though they are not public; reached without TLS where they offer none.",
  }),
  cdiFolders: list({
    env: "SKERRY_AGENT_CDI_FOLDERS",
    default: ["/etc/cdi", "/var/run/cdi"],
    help: "Folders of the Container Device Interface's files, which name the GPUs that containers may be given; none: they get none. podman before 5 looks in the default ones only.",
  }),
  libvirtUri: text({
    env: "SKERRY_AGENT_LIBVIRT_URI",
    default: "qemu:///system",
    help: "The libvirt daemon of this host, for the driver of that name.",
  }),
  share: number({
    env: "SKERRY_AGENT_SHARE",
    min: 0.01,
    max: 1,
    default: 1,
    help: "Part of the host's CPUs, memory and disk that machines may have.",
  }),
  listenHost: text({
    env: "SKERRY_AGENT_LISTEN_HOST",
    default: "0.0.0.0",
    help: "Address of the agent's own port, for other agents and operators.",
  }),
  listenPort: integer({
    env: "SKERRY_AGENT_LISTEN_PORT",
    min: 0,
    max: 65_535,
    default: 7443,
    help: "The agent's own port; 0 is any free one.",
  }),
  advertise: text({
    env: "SKERRY_AGENT_ADVERTISE",
    default: optional,
    help: "Address, without port, at which others reach the agent's port, if not the one it listens on.",
  }),
  logLevel: oneOf({
    env: "SKERRY_AGENT_LOG_LEVEL",
    values: logLevels,
    default: "info",
    help: "Least important events that are logged.",
  }),
  sampleSeconds: number({
    env: "SKERRY_AGENT_SAMPLE_SECONDS",
    min: 0.1,
    max: 3600,
    default: 10,
    help: "Seconds between two samples of how busy the host and its machines are.",
  }),
  keepAliveSeconds: number({
    env: "SKERRY_AGENT_KEEP_ALIVE_SECONDS",
    min: 0.5,
    max: 600,
    default: 15,
    help: "Seconds of silence after which a connection counts as dead.",
  }),
  stopMachines: flag({
    env: "SKERRY_AGENT_STOP_MACHINES",
    default: false,
    help: "Whether a clean stop of the agent turns its machines off; the next start turns them on again.",
  }),
  imageRanges: list({
    env: "SKERRY_AGENT_IMAGE_RANGES",
    default: [],
    help: "Private address ranges, such as 10.0.0.0/8, that images may be fetched from.",
  }),
  probeGuest: text({
    env: "SKERRY_AGENT_PROBE_GUEST",
    default: optional,
    help: "Folder of the micro guest, booted once to prove that hardware acceleration works.",
  }),
  fakeKnobsFile: text({
    env: "SKERRY_AGENT_FAKE_KNOBS_FILE",
    default: optional,
    help: "JSON file of knobs for the fake driver, followed while the agent runs.",
  }),
};

export type AgentSettings = SettingsOf<typeof agentSettings>;

/** Reads the settings; every mistake is told at once. */
export function readAgentSettings(env: Readonly<Record<string, string | undefined>>): AgentSettings {
  return readSettings(agentSettings, env, { prefix: "SKERRY_AGENT_" });
}
