/** GPUs, which a host has for guests of its hypervisor or for containers: those of the one are not for the other. */
import type { Filter } from "../policy.ts";

/** What a driver must be able to do for a guest to have a GPU. */
const capability = "gpu";

/** As many free GPUs for a guest as were asked for, of the model if one was. */
export const gpu: Filter = {
  scope: "load",
  code: "gpu",
  verdict: "without a free GPU",
  fit({ gpus = 0, gpuModel }) {
    if (gpus === 0) return undefined;
    return {
      miss(host) {
        if (!host.capabilities.includes(capability)) return 3;
        if (gpuModel !== undefined && host.gpuModel !== gpuModel) return 2;
        const free = (host.capacity.gpus ?? 0) - (host.used.gpus ?? 0);
        return free >= gpus ? 0 : Math.min(1, (gpus - free) / gpus);
      },
      reason(host) {
        if (!host.capabilities.includes(capability)) {
          const others = host.capacity.containerGpus ?? 0;
          return `its driver gives guests no GPU${others > 0 ? `, and its ${String(others)} are for containers` : ""}`;
        }
        if (gpuModel !== undefined && host.gpuModel !== gpuModel) {
          return `has ${host.gpuModel ?? "none"}, not ${gpuModel}`;
        }
        const free = Math.max(0, (host.capacity.gpus ?? 0) - (host.used.gpus ?? 0));
        return `${String(free)} of ${String(host.capacity.gpus ?? 0)} GPUs free`;
      },
    };
  },
};

/** As many free GPUs for a container as were asked for. */
export const containerGpu: Filter = {
  scope: "load",
  code: "gpu",
  verdict: "without a free GPU",
  fit({ containerGpus: wanted = 0 }) {
    if (wanted === 0) return undefined;
    return {
      miss({ capacity, used }) {
        const has = capacity.containerGpus ?? 0;
        const free = has - (used.containerGpus ?? 0);
        if (free >= wanted) return 0;
        return has === 0 ? 2 : Math.min(1, (wanted - free) / wanted);
      },
      reason({ capacity, used }) {
        const has = capacity.containerGpus ?? 0;
        if (has === 0) return "has no GPUs for containers";
        return `${String(Math.max(0, has - (used.containerGpus ?? 0)))} of ${String(has)} GPUs free`;
      },
    };
  },
};
