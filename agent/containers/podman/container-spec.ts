/** What podman is asked to make of a container. Pure. */
import type { ContainerSetup } from "../engine.ts";

export const shapeLabel = "skerry.shape";

const logBytes = 8 * 1024 * 1024;
/** The agent runs the check, so there is no interval, and ends one that takes long. In nanoseconds. */
const healthTiming = { Interval: 0, Timeout: 3_600_000_000_000, Retries: 1 };
const cpuPeriod = 100_000;

/** The body of podman's create call. */
export function toPodmanSpec(id: string, shape: string, setup: ContainerSetup) {
  const { image, command, environment, hostname, cpus, memoryBytes, ports, health, devices, logPath } = setup;
  return {
    name: id,
    image,
    labels: { [shapeLabel]: shape },
    ...(command.length > 0 && { command }),
    env: environment,
    hostname,
    // A network of its own in user space: nothing of the host's own network is changed for it.
    netns: { nsmode: "slirp4netns" },
    network_options: { slirp4netns: ["port_handler=slirp4netns"] },
    portmappings: ports.map(({ protocol, containerPort, hostPort, hostAddress }) => ({
      ...{ protocol, container_port: containerPort, host_port: hostPort },
      host_ip: hostAddress,
    })),
    resource_limits: {
      memory: { limit: memoryBytes },
      cpu: { quota: cpus * cpuPeriod, period: cpuPeriod },
    },
    ...(devices.length > 0 && { devices: devices.map((path) => ({ path })) }),
    no_new_privileges: true,
    log_configuration: { driver: "k8s-file", path: logPath, size: logBytes },
    healthconfig: health.length > 0 ? { Test: ["CMD", ...health], ...healthTiming } : { Test: ["NONE"] },
  };
}
