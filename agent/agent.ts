/**
 * The agent, put together. The order is what makes it safe to kill: the ledger says what should be,
 * recovery takes up what is, and only then is anybody served or told anything.
 */
import { randomUUID } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Fault } from "#kernel/fault.ts";
import { defaultEgressPolicy } from "#kernel/egress.ts";
import type { Logger } from "#kernel/log.ts";
import { isLeaseTicket } from "#kernel/lease-ticket.ts";
import { deadline, retry } from "#kernel/retry.ts";
import type { HostFacts, HostLabels } from "#gen/skerry/agent/v1/host_pb.js";
import { ContainerDriver } from "./containers/driver.ts";
import { findContainerFacts, noteContainers, noteGpus } from "./containers/facts.ts";
import { Gpus } from "./containers/gpus.ts";
import { ContainerImages } from "./containers/images.ts";
import { withContainers } from "./containers/routing.ts";
import type { ContainerEngine } from "./containers/engine.ts";
import { enrol } from "./control/enrol.ts";
import { type Credentials, Identity } from "./control/identity.ts";
import { Lease } from "./control/lease.ts";
import { probeHost } from "./control/probe.ts";
import { Reporter } from "./control/reporter.ts";
import { ControlSession } from "./control/session.ts";
import type { MachineDriver } from "./drivers/driver.ts";
import { type FactsOptions, findHostFacts } from "./host/facts.ts";
import { HostSampler } from "./host/host-metrics.ts";
import { readHostLabels } from "./host/labels.ts";
import { toPrometheus } from "./host/prometheus.ts";
import { lockFolder } from "./host/lock.ts";
import { MachineSampler } from "./host/machine-metrics.ts";
import { findProbeGuest } from "./host/probe-guest.ts";
import { findAgentVersion } from "./host/version.ts";
import { defaultDownloadLimits, ImageCache } from "./images/cache.ts";
import { ChangeFeed } from "./machines/change-feed.ts";
import { Consoles } from "./machines/console.ts";
import { listForeign } from "./machines/foreign.ts";
import { Ledger } from "./machines/ledger.ts";
import { defaultTiming, type MachineDeps } from "./machines/machine-deps.ts";
import { createHostTransport } from "./machines/host-transport.ts";
import { MachineManager } from "./machines/manager.ts";
import { recoverMachines } from "./machines/recover.ts";
import { CodingWorkers } from "./migration/coding/workers.ts";
import { PageFiles } from "./migration/pages/page-files.ts";
import { createPullHandler, MoveSources } from "./migration/pull-handler.ts";
import { Listener } from "./rpc/listener.ts";
import { createServices } from "./rpc/services.ts";
import type { AgentSettings } from "./settings.ts";

const enrolAttempts = 30;
const enrolBackoff = { baseMs: 1000, capMs: 30_000 };
/** Machines that do not stop within this outlive the agent after all. */
const stopLimitMs = 30_000;

/** What an agent may be given that is not one to a computer. */
export type SimulatedHost = Pick<FactsOptions, "readHardware">;

/** Runs an agent until the signal aborts, then ends it cleanly. */
export async function runAgent(
  settings: AgentSettings,
  log: Logger,
  signal: AbortSignal,
  simulated: SimulatedHost = {},
): Promise<void> {
  await mkdir(settings.data, { recursive: true, mode: 0o700 });
  await using _lock = await lockFolder(settings.data);
  const labels = await readHostLabels(settings.labelsFile);
  await using machines = await createDriver(settings, log);
  const containersDirectory = join(settings.data, "containers");
  const engine = await createEngine(settings, containersDirectory, log);
  const gpus = new Gpus({ folders: settings.cdiFolders, engine, log });
  await using containers = new ContainerDriver({ engine, gpus, log });
  const driver = withContainers(machines, containers);
  const ledger = await Ledger.open({ directory: join(settings.data, "ledger"), log });
  const lease = await Lease.open({ directory: settings.data, log });
  const uplink: Uplink = {};
  const imageCache = createImages(settings, uplink, log);
  await imageCache.tidy();
  const { registries, imageRanges: allowedRanges } = settings;
  const images = new ContainerImages({ files: imageCache, engine, registries, allowedRanges });
  const changes = new ChangeFeed();
  const sources = new MoveSources();
  const directoryOf = (id: string) => join(settings.data, "machines", id);
  await using workers = new CodingWorkers({ log });
  const pageFiles = new PageFiles({ directory: join(settings.data, "page-files"), log });
  const deps: MachineDeps = {
    ...{ driver, images, ledger, changes, lease, log, directoryOf },
    devices: gpus,
    moves: createHostTransport({
      ...{ sources, workers, gateways: settings.gateways, log },
      identity: identityOf(uplink),
      pageFiles: driver.name === "fake" ? undefined : pageFiles,
    }),
    timing: defaultTiming,
    now: Date.now,
  };
  const manager = new MachineManager(deps);
  const working = new AbortController();
  using _lease = lease.onChange(() => manager.followLease());
  const running = [manager.run(working.signal), lease.run(working.signal)];
  try {
    await recoverMachines(manager, deps, signal);
    const facts = await findFacts(settings, driver, simulated, signal);
    const identity = await Identity.open(join(settings.data, "identity.pem"));
    if (identity.hostId === undefined) await joinCloud(settings, identity, labels, facts, log, signal);
    uplink.identity = identity;

    const consoles = new Consoles({ access: driver.console, manager, directoryOf, log });
    const hostSampler = new HostSampler({ directory: settings.data });
    const machineSampler = new MachineSampler({ driver, log });
    const { services, health } = createServices({
      ...{ manager, changes, consoles, hostSampler, machineSampler, ledger, labels, facts, directoryOf, log },
      images: imageCache,
      pull: createPullHandler({ sources, log }),
      name: settings.name,
      hostId: () => identity.hostId ?? "",
      lease: () => ({ holds: lease.holds, boundRunning: manager.boundRunning }),
      admitsTicket: (ticket) =>
        isLeaseTicket(ticket, identity.hostId ?? "", identity.authorityKey, Date.now()),
      probe: (target, until) => probeHost({ ...target, trust: identity.trust }, until),
    });
    const keepAliveMs = settings.keepAliveSeconds * 1000;
    const { listenHost: host, listenPort: port } = settings;
    const metrics = async () =>
      toPrometheus({
        ...{ host: await hostSampler.peek(), machines: manager.list() },
        ...{ connected: reporter.state.connected, unreported: reporter.state.pending },
        ...{ leaseHolds: lease.holds, boundRunning: manager.boundRunning },
      });
    await using listener = await Listener.listen({
      identity,
      services,
      host,
      port,
      keepAliveMs,
      metrics,
      log,
    });
    facts.listenAddress = `${settings.advertise ?? (host === "0.0.0.0" ? facts.hostname : host)}:${String(listener.port)}`;

    const isUrgent = () => manager.hasBound;
    const { gateways } = settings;
    const session = new ControlSession({
      ...{ identity, gateways, services, keepAliveMs, log },
      isUrgent: () => isUrgent() || manager.hasMoving,
    });
    uplink.session = session;
    const reporter = new Reporter({
      send: (report, until) => session.report(report, until),
      machines: () => manager.list(),
      sample: async () => ({
        host: await hostSampler.sample(),
        machines: await machineSampler.sampleAll(manager.list()),
        foreign: await listForeign(driver, log),
      }),
      sessionId: randomUUID(),
      sampleMs: settings.sampleSeconds * 1000,
      ...{ changes, facts, labels, lease, isUrgent, log },
    });
    using _state = session.onState(({ status }) => reporter.setConnected(status === "connected"));
    const findContainers = async () => {
      const options = { driver: containers, wanted: settings.containers === "auto", bootId: facts.bootId };
      const found = await findContainerFacts(
        { ...options, directory: containersDirectory, log },
        working.signal,
      );
      noteContainers(facts, found);
      reporter.factsChanged();
      if (found.engine === "") return;
      await gpus.follow((reading) => {
        noteGpus(facts, reading);
        reporter.factsChanged();
        manager.followDevices();
      }, working.signal);
    };
    running.push(
      findContainers(),
      reporter.run(working.signal),
      consoles.run(working.signal),
      session.run(working.signal),
    );
    log.info("agent.ready", { hostId: identity.hostId, name: settings.name, listen: facts.listenAddress });
    await aborted(signal);
    health.serving = false;
  } finally {
    working.abort();
    using limit = deadline(stopLimitMs, "stopping the machines");
    await manager.close({ pullPlugs: settings.stopMachines && signal.aborted }, limit);
    await Promise.allSettled(running);
    log.info("agent.stopped");
  }
}

/** What there is only once the host has joined, for those that begin to work before. */
interface Uplink {
  session?: ControlSession;
  identity?: Identity;
}

function identityOf(uplink: Uplink): { readonly credentials: Credentials } {
  return {
    get credentials() {
      if (uplink.identity) return uplink.identity.credentials;
      throw new Fault("unavailable", "the agent has only just begun", { reason: "AGENT_STARTING" });
    },
  };
}

/** Only the engine that is used is loaded. */
async function createEngine(
  { driver, registries }: AgentSettings,
  stateDirectory: string,
  log: Logger,
): Promise<ContainerEngine> {
  if (driver === "fake") {
    const { FakeEngine } = await import("./containers/fake/engine.ts");
    return new FakeEngine({ stateDirectory });
  }
  const { PodmanEngine } = await import("./containers/podman/engine.ts");
  return new PodmanEngine({ stateDirectory, insecureRegistries: registries, log });
}

/** Only the driver that is used is loaded. */
async function createDriver(settings: AgentSettings, log: Logger): Promise<MachineDriver> {
  if (settings.driver === "fake") {
    const { createFakeDriver } = await import("./drivers/fake/driver.ts");
    return createFakeDriver({ log, knobsFile: settings.fakeKnobsFile });
  }
  const probeGuest = () => findProbeGuest(settings.probeGuest);
  const options = { stateDirectory: join(settings.data, "driver"), log, probeGuest };
  if (settings.driver === "libvirt") {
    const { createLibvirtDriver } = await import("./drivers/libvirt/driver.ts");
    return createLibvirtDriver({ uri: settings.libvirtUri, ...options });
  }
  const { createQemuDriver } = await import("./drivers/qemu/driver.ts");
  return createQemuDriver(options);
}

function createImages(settings: AgentSettings, uplink: Uplink, log: Logger): ImageCache {
  return new ImageCache({
    directory: join(settings.data, "images"),
    fetchFile: (sha256, offset, signal) => {
      if (uplink.session) return uplink.session.fetchFile(sha256, Number(offset), signal);
      throw new Fault("unavailable", "the control plane is not connected", {
        reason: "GATEWAY_NOT_CONNECTED",
      });
    },
    egress: { ...defaultEgressPolicy, allowedRanges: settings.imageRanges },
    limits: defaultDownloadLimits,
    log,
  });
}

async function findFacts(
  settings: AgentSettings,
  driver: MachineDriver,
  simulated: SimulatedHost,
  signal: AbortSignal,
): Promise<HostFacts> {
  const { data: directory, share } = settings;
  const agentVersion = await findAgentVersion();
  return findHostFacts({ driver, directory, share, agentVersion, ...simulated }, signal);
}

async function joinCloud(
  settings: AgentSettings,
  identity: Identity,
  labels: HostLabels,
  facts: HostFacts,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  const { token, gateways, name } = settings;
  if (token === undefined) {
    throw new Fault("unauthenticated", "this host has not joined a cloud: set SKERRY_AGENT_TOKEN", {
      reason: "NOT_ENROLLED",
    });
  }
  const keepAliveMs = settings.keepAliveSeconds * 1000;
  await retry(() => enrol({ identity, token, gateways, name, labels, facts, keepAliveMs, log }, signal), {
    ...enrolBackoff,
    attempts: enrolAttempts,
    signal,
    onRetry: (fault, attempt, waitMs) => log.warn("enrol.retry", { attempt, waitMs, fault }),
  });
  log.info("agent.enrolled", { hostId: identity.hostId });
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}
