import type { Filter } from "../policy.ts";

/** What a driver must be able to do for a guest to have a GPU. */
const capability = "gpu";

/** As many free GPUs as were asked for, of the model if one was. */
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
        if (!host.capabilities.includes(capability)) return "its driver gives guests no GPU";
        if (gpuModel !== undefined && host.gpuModel !== gpuModel) {
          return `has ${host.gpuModel ?? "none"}, not ${gpuModel}`;
        }
        const free = Math.max(0, (host.capacity.gpus ?? 0) - (host.used.gpus ?? 0));
        return `${String(free)} of ${String(host.capacity.gpus ?? 0)} GPUs free`;
      },
    };
  },
};
