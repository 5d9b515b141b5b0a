/** What the doctor says about one thing. */
export interface Finding {
  readonly name: string;
  /** `warn`: it works, or it may not matter here. `fail`: it does not work. */
  readonly status: "ok" | "warn" | "fail";
  readonly detail: string;
  /** How to mend it; empty when all is well. */
  readonly remedy: string;
}

export const ok = (name: string, detail: string): Finding => ({ name, status: "ok", detail, remedy: "" });
export const warn = (name: string, detail: string, remedy: string): Finding => ({
  name,
  status: "warn",
  detail,
  remedy,
});
export const fail = (name: string, detail: string, remedy: string): Finding => ({
  name,
  status: "fail",
  detail,
  remedy,
});
