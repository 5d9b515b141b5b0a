import type { Filter } from "../policy.ts";

/** An image boots on its own architecture only. */
export const image: Filter = {
  scope: "labels",
  code: "image",
  verdict: "unable to boot the image",
  fit({ imageArchitecture }) {
    return {
      miss: (host) => (host.architecture === imageArchitecture ? 0 : 1),
      reason: (host) => `the image is ${imageArchitecture}, the host ${host.architecture}`,
    };
  },
};
