/** Who takes turns with whom, by PostgreSQL's advisory locks: all in one place, so that no two are one number. */
export const locks = {
  migrations: 0x5ce77,
  sweep: 0x5ce78,
  auditChain: 0x5ce79,
  tokenKeys: 0x5ce7a,
  imageSeeds: 0x5eed1,
  flavorSeeds: 0x5eedf,
} as const;
