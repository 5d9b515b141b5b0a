import { LastStretch } from "./last-stretch.ts";
import { Pace } from "./pace.ts";

/**
 * What is known of how a machine's stream goes. It outlives the calls: a stream that is held back when one ends, because
 * it is nearly done, must not be let go by the next before that has learned how fast it goes.
 */
export class Course {
  readonly pace = new Pace();
  readonly lastStretch = new LastStretch();
  /** Held back, so that it does not end. */
  held = false;
  /** Only a moment is left. */
  near = false;
}
