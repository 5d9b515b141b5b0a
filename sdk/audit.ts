/** The audit log of the caller's project. */
import type { CallOptions, Transport } from "./transport.ts";

export interface AuditEvent {
  readonly id: string;
  /** Such as `vm.create`. */
  readonly action: string;
  readonly user_id: string;
  readonly username: string;
  readonly resource: string;
  readonly resource_id: string;
  readonly timestamp: string;
  readonly success: boolean;
  readonly ip_address: string;
  readonly request_id: string;
  /** Why it failed, by a name that programs know. */
  readonly reason?: string;
}

export interface AuditQuery {
  readonly user_id?: string | undefined;
  readonly action?: string | undefined;
  /** RFC 3339 times or dates. */
  readonly start_time?: string | undefined;
  readonly end_time?: string | undefined;
}

export interface AuditVerdict {
  readonly project: string;
  readonly intact: boolean;
  readonly events: number;
  readonly broken_at: number | null;
  readonly hash: string;
  readonly signed_by: string | null;
  /** Events that were taken out because they were old. */
  readonly gap: { readonly events: number; readonly until: string } | null;
}

const shown = 1000;

/** Reading and checking the log. */
export function auditExtras(transport: Transport) {
  return {
    /** The newest thousand that match. */
    async list(query: AuditQuery = {}, options: CallOptions = {}): Promise<readonly AuditEvent[]> {
      const call = {
        ...options,
        method: "GET",
        path: "/v1/audit/logs",
        query: { ...query, limit: shown },
      } as const;
      return (await transport.required<{ readonly events: readonly AuditEvent[] }>(call)).events;
    },
    /** Whether every event is in its place and the end of the chain is signed. */
    async verify(options: CallOptions = {}): Promise<AuditVerdict> {
      const call = { ...options, method: "GET", path: "/skerry/v1/audit/verify" } as const;
      let from: string | undefined;
      for (;;) {
        const page = await transport.required<AuditVerdict & { readonly next: string | null }>({
          ...call,
          query: { from },
        });
        const { next, ...verdict } = page;
        if (next === null || !verdict.intact) return verdict;
        from = next;
      }
    },
  };
}
