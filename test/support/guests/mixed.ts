/**
 * What `micro` runs to have the memory of a machine at work: 640 MiB of text, random bytes, programs and zeros by
 * turns, in a file system in memory, 16 MiB on its disk, and from then on mild writes to both. No kind repeats
 * at the same place within a page, and each only after more than a codec of blocks looks back. `zstd-long` looks further: the
 * text comes again after 4.7 MB, which a real guest's memory does less (ADR 24 has both).
 */
import { readyLine } from "./console-lines.ts";

/** MiB of one turn, by kind. What is not zero, lz4 shrinks to about 0.59 and zstd-1 to about 0.45. */
const turn = { text: 18, random: 7, binary: 10, zero: 5 };
const turns = 16;

/** The memory that it needs. */
export const mixedMemoryBytes = 1024 * 2 ** 20;

/** The user data that does all that; the same seed writes the same text. */
export function mixedScript(seed: number): string {
  return `#!/bin/sh
mkdir /mixed && mount -t tmpfs -o size=760m tmpfs /mixed && cd /mixed || exit 1
awk -v seed=${String(seed)} 'BEGIN {
  srand(seed)
  for (i = 0; i < 3000; i++) {
    length_ = 2 + int(rand() * 9)
    for (j = 0; j < length_; j++) word[i] = word[i] sprintf("%c", 97 + int(26 * rand() * rand()))
  }
  for (i = 0; i < 400; i++) for (j = 0; j < 6; j++) phrase[i] = phrase[i] " " word[int(3000 * rand())]
  for (line = 0; line < 40000; line++) {
    text = line
    for (j = 0; j < 2; j++) {
      text = text phrase[int(400 * rand() * rand())]
      text = text " " word[int(3000 * rand() * rand())] " " word[int(3000 * rand() * rand())]
    }
    print text
  }
}' >text
cat /bin/busybox /sbin/mke2fs /sbin/resize2fs /lib/*.so* /lib/modules/*.ko >binary
echo odd >>binary
# The whole of a file again and again, from where it ended: more than is read is never made.
forever() { while cat "$1"; do :; done 2>/dev/null; }
piece() { dd bs=64k iflag=fullblock count=$(($1 * 16)) 2>/dev/null; }
forever text | {
  exec 3<&0
  forever binary | {
    n=0
    while [ $n -lt ${String(turns)} ]; do
      n=$((n + 1))
      piece ${String(turn.text)} <&3 >text.$n
      piece ${String(turn.random)} </dev/urandom >random.$n
      piece ${String(turn.binary)} >binary.$n
      piece ${String(turn.zero)} </dev/zero >zero.$n
    done
  }
}
dd if=/dev/urandom of=/data/file bs=64k count=256 2>/dev/null
sync
echo ${readyLine}
n=0
while sleep 1; do
  n=$((n + 1))
  dd if=/dev/urandom of=random.1 bs=64k count=8 seek=$((n % 16 * 8)) conv=notrunc 2>/dev/null
  dd if=/dev/urandom of=/data/file bs=64k count=1 seek=$((n % 256)) conv=notrunc,fsync 2>/dev/null
  echo "tick $n"
done
`;
}
