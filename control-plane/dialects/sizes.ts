/** Sizes as most dialects speak of them: MB and GB are 2^20 and 2^30 bytes. */
const MiB = 1024 ** 2;
const GiB = 1024 ** 3;

export const toMegabytes = (bytes: number): number => Math.round(bytes / MiB);

/** In thousandths, for what is no whole number of them. */
export const toGigabytes = (bytes: number): number => Math.round((bytes / GiB) * 1000) / 1000;

export const fromGigabytes = (gigabytes: number): number => gigabytes * GiB;
