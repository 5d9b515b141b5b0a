/** Points of a real guest's move at which it is held, and what strikes there. */
import { readFile } from "node:fs/promises";
import { machineFiles } from "#agent/drivers/hypervisor/files.ts";
import { dropKeptDisks } from "#agent/drivers/hypervisor/kept-disk.ts";
import { sleep } from "#kernel/retry.ts";
import type { QemuObserver } from "#test/support/qemu-observer.ts";
import { until } from "#test/support/until.ts";
import { CommitHold, type HeldCommit } from "./commit-hold.ts";
import type { MigrationCloud } from "./migration-cloud.ts";

/** One move, and what a strike needs to know of it. */
export interface Scene {
  readonly world: MigrationCloud;
  readonly qemus: QemuObserver;
  readonly instance: string;
  readonly from: string;
  readonly to: string;
  migration: string;
  commit?: CommitHold;
  /** What its owner asked for and has not been answered yet. */
  asked?: Promise<unknown>;
}

export interface Point {
  /** Before the move is asked for. */
  readonly arm?: (scene: Scene) => Promise<unknown>;
  readonly isReached: (scene: Scene) => Promise<boolean>;
  /** Keeps it there. */
  readonly hold?: (scene: Scene) => Promise<unknown>;
  /** Lets it go on, as soon as that can be heard. */
  readonly release: (scene: Scene) => Promise<unknown>;
}

/** The destination pulls: this is the way that all bytes of the move take. */
const way = ({ world, from }: Scene) => world.ways.get(from);
const stallWay = async (scene: Scene) => way(scene)?.stall();
const resumeWay = async (scene: Scene) => way(scene)?.resume();

const heldCommit = (column: HeldCommit) => ({
  arm: async (scene: Scene) => (scene.commit = await CommitHold.take(scene.world.databaseUrl, column)),
  isReached: async ({ commit }: Scene) => (await commit?.isReached()) === true,
  release: async ({ commit }: Scene) => commit?.release(),
});

/** More than a stream says while it is held and nobody reads it: what two sockets take in. */
const heldBytes = 4 * 1024 * 1024;

export const points = {
  /** The destination has made its QEMU, and has not reached the source. */
  preparing: {
    arm: stallWay,
    isReached: async ({ qemus, to }) => (await qemus.look(to)) !== undefined,
    release: resumeWay,
  },
  /** Of the whole disk: what goes back to one that was kept is copied by no job, and in no time. */
  "disk-copy": {
    arm: ({ world, to, instance }: Scene) => dropKeptDisks(world.folderOf(to, instance)),
    isReached: async ({ qemus, from }) => (await qemus.look(from))?.copies === true,
    hold: stallWay,
    release: resumeWay,
  },
  "pre-copy": {
    isReached: async ({ qemus, from }) => {
      const seen = await qemus.look(from);
      return seen?.migration === "active" && seen.sentBytes > heldBytes;
    },
    hold: stallWay,
    release: resumeWay,
  },
  /** The source has handed over; the record does not say so yet. */
  switchover: heldCommit("committed_at"),
  /** The record says so, and the destination has not heard of it. */
  committed: {
    ...heldCommit("committed_at"),
    async hold({ world, commit, migration }) {
      world.gateway.stall();
      await commit?.release();
      const { url, apiKey } = world.cloud;
      await until(
        async () => {
          const headers = { authorization: `Token ${apiKey}` };
          const answer = await fetch(new URL(`/skerry/v1/migrations/${migration}`, url), { headers });
          const { status } = (await answer.json()) as { status: { committed_at: string | null } | null };
          return Boolean(status?.committed_at);
        },
        10_000,
        5,
      );
    },
    release: async ({ world }) => world.gateway.resume(),
  },
  /** It runs where it moved to; the source still has its copy. */
  finish: heldCommit("ended_at"),
} as const satisfies Record<string, Point>;
export type PointName = keyof typeof points;

/** `strike` returns when it has had its effect, `mend` makes all good again. */
export interface Strike {
  readonly strike: (scene: Scene) => Promise<unknown>;
  readonly mend?: (scene: Scene) => Promise<unknown>;
  /** It needs a host's disk of its own. */
  readonly needsDisk?: true;
}

/** A connection that is silent for so long counts as dead; guests under emulation leave others little time. */
export const strikeLeaseMs = 2_500;
/** Longer than a silent connection is believed in. */
const longMs = 2 * strikeLeaseMs;

export const strikes: Readonly<Record<string, Strike>> = {
  ...Object.fromEntries(
    (["from", "to"] as const).flatMap((side): [string, Strike][] => [
      [
        `${side} agent: kill -9`,
        {
          strike: (scene) => scene.world.agent(scene[side]).program.kill(),
          mend: (scene) => scene.world.agent(scene[side]).program.start(),
        },
      ],
      [
        `${side} agent: hangs`,
        {
          async strike(scene) {
            scene.world.agent(scene[side]).program.freeze(true);
            await sleep(longMs);
          },
          mend: async (scene) => scene.world.agent(scene[side]).program.freeze(false),
        },
      ],
      [`${side} QEMU: kill -9`, { strike: (scene) => signalQemu(scene, side, "SIGKILL") }],
      [
        `${side} QEMU: hangs`,
        {
          async strike(scene) {
            await signalQemu(scene, side, "SIGSTOP");
            await sleep(longMs);
          },
          mend: (scene) => signalQemu(scene, side, "SIGCONT"),
        },
      ],
      [
        `${side} disk: full`,
        {
          needsDisk: true,
          // It matters when somebody writes.
          async strike(scene) {
            await scene.world.disks.get(scene[side])?.fill();
            way(scene)?.resume();
            await sleep(longMs);
          },
          mend: async (scene) => scene.world.disks.get(scene[side])?.makeRoom(),
        },
      ],
    ]),
  ),
  "control plane: kill -9": {
    strike: ({ world }) => world.cloud.controlPlane.kill(),
    mend: ({ world }) => world.cloud.controlPlane.start(),
  },
  "control plane: hangs": {
    async strike({ world }) {
      world.cloud.controlPlane.freeze(true);
      await sleep(longMs);
    },
    mend: async ({ world }) => world.cloud.controlPlane.freeze(false),
  },
  "PostgreSQL: kill -9": {
    strike: ({ world }) => world.killPostgres(),
    mend: ({ world }) => world.restartPostgres(),
  },
  "PostgreSQL: hangs": {
    async strike({ world }) {
      await world.freezePostgres(true);
      await sleep(longMs);
    },
    mend: ({ world }) => world.freezePostgres(false),
  },
  "agents' way: cut": { strike: async (scene) => way(scene)?.cut() },
  "agents' way: lost": { strike: async (scene) => way(scene)?.lose() },
  "agents' way: stalls": {
    async strike(scene) {
      way(scene)?.stall();
      await sleep(longMs);
    },
    mend: resumeWay,
  },
  "agents' way: a wrong bit": {
    strike: async (scene) => way(scene)?.damage(),
    // Where nothing passed any more, the next to come by would be the test itself.
    mend: async (scene) => {
      way(scene)?.resume();
      await sleep(100);
      way(scene)?.damage(false);
    },
  },
  "gateway: cut": { strike: async ({ world }) => world.gateway.cut() },
  "gateway: stalls": {
    async strike({ world }) {
      world.gateway.stall();
      await sleep(longMs);
    },
    mend: async ({ world }) => world.gateway.resume(),
  },
  "its owner: cancel": {
    // At a commit that is held the answer has to wait for it.
    strike: async (scene) => {
      scene.asked = scene.world.ask("POST", `/skerry/v1/migrations/${scene.migration}/cancel`, {});
      await Promise.race([scene.asked, sleep(500)]);
    },
    mend: ({ asked }) => Promise.resolve(asked),
  },
};

async function signalQemu(scene: Scene, side: "from" | "to", signal: NodeJS.Signals): Promise<void> {
  const { pidFile } = machineFiles(scene.world.folderOf(scene[side], scene.instance));
  process.kill(Number(await readFile(pidFile, "utf8")), signal);
}
