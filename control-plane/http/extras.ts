/** Native routes that no kind says: who am I, placements, metrics, uploads, certificates. */
import type { IncomingMessage } from "node:http";
import { z } from "zod";
import type { Ctx } from "#kernel/ctx.ts";
import { toMachineSeriesJson, type MetricsQuery } from "../app/metrics-query.ts";
import type { PlacementReports } from "../app/placement-reports.ts";
import type { CreateInput, ResourceApi } from "../app/resource-api.ts";
import type { Resource } from "../resources/definition.ts";
import { enrolmentToken } from "../resources/enrolment-token/enrolment-token.resource.ts";
import { image } from "../resources/image/image.resource.ts";
import { instance, type Instance } from "../resources/instance/instance.resource.ts";
import { labelsSchema, nameSchema, resourceSchema, toNative } from "./native-json.ts";
import { reply } from "./native-kind.ts";
import { timeParameter } from "./parameters.ts";
import { defineRoute, type Route } from "./route.ts";

export interface ExtrasOptions {
  readonly version: string;
  readonly resources: ResourceApi;
  /** Stores an upload as the content of an image that waits for one. */
  readonly imageContent: { upload(ctx: Ctx, id: string, content: IncomingMessage): Promise<unknown> };
  /** Makes a token and its secret, which is never seen again. */
  readonly enrolmentTokens: {
    create(
      ctx: Ctx,
      input: CreateInput,
    ): Promise<{ readonly resource: Resource; readonly token: string; readonly gateway: string }>;
  };
  readonly metrics: Pick<MetricsQuery, "machine">;
  readonly placements: Pick<PlacementReports, "report">;
  issueOperatorCertificate(
    ctx: Ctx,
    request: string,
  ): Promise<{ readonly certificate: string; readonly authorities: string }>;
}

const base = "/skerry/v1";
const maxCertificateRequest = 16 * 1024;

/** The routes, to be given to `nativeSurface` with those of the console. */
export function extraRoutes(options: ExtrasOptions): Route[] {
  return [...aboutRoutes(options), ...instanceRoutes(options), ...hostRoutes(options), uploadRoute(options)];
}

function aboutRoutes({ version }: ExtrasOptions): Route[] {
  const principal = z.object({
    id: z.string(),
    username: z.string(),
    kind: z.string(),
    project: z.string(),
    role: z.string(),
  });
  return [
    defineRoute({
      method: "GET",
      path: `${base}/whoami`,
      operationId: "whoami",
      summary: "Who is asking",
      tag: "identity",
      role: "viewer",
      answers: { 200: { description: "the caller", schema: principal, name: "Principal" } },
      async handle({ ctx: { principal: p } }) {
        const body = { id: p.id, username: p.name, kind: p.kind, project: p.project, role: p.role };
        return { status: 200, headers: {}, body };
      },
    }),
    defineRoute({
      method: "GET",
      path: `${base}/version`,
      operationId: "getVersion",
      summary: "Version of the control plane",
      tag: "identity",
      role: "anyone",
      answers: { 200: { description: "the version", schema: z.object({ version: z.string() }) } },
      handle: async () => ({ status: 200, headers: {}, body: { version } }),
    }),
  ];
}

function instanceRoutes({ resources, metrics, placements }: ExtrasOptions): Route[] {
  return [
    defineRoute({
      method: "GET",
      path: `${base}/instances/{id}/placement`,
      operationId: "explainPlacement",
      summary: "Where the instance was placed and why there, or why nowhere yet",
      tag: "instances",
      role: "viewer",
      answers: {
        200: { description: "the choice and its reasons", schema: placementSchema, name: "PlacementReport" },
      },
      async handle({ ctx, params }) {
        const placed = (await resources.get(ctx, instance, params["id"] ?? "")) as Instance;
        return { status: 200, headers: {}, body: { ...(await placements.report(placed)) } as never };
      },
    }),
    defineRoute({
      method: "GET",
      path: `${base}/instances/{id}/metrics`,
      operationId: "getInstanceMetrics",
      summary: "Usage over time, in at most 500 points",
      tag: "instances",
      role: "viewer",
      query: z.strictObject({
        start_time: timeParameter("default: an hour before the end", "start").optional(),
        end_time: timeParameter("default: now", "end").optional(),
      }),
      answers: { 200: { description: "the points", schema: z.record(z.string(), z.unknown()) } },
      async handle({ ctx, params, query }) {
        const { id } = await resources.get(ctx, instance, params["id"] ?? "");
        const range = { start: query.start_time, end: query.end_time };
        return { status: 200, headers: {}, body: toMachineSeriesJson(id, await metrics.machine(id, range)) };
      },
    }),
  ];
}

const sentences = z.array(z.string()).optional();
const placementSchema = z.object({
  id: z.string(),
  phase: z.string(),
  host_id: z.string().nullable(),
  host: z.string().optional().describe("the host's name"),
  provider: z.string().optional(),
  region: z.string().optional(),
  zone: z.string().optional(),
  verdict: z.string().optional().describe("the answer in a sentence"),
  reasons: sentences.describe("in money and kilometres, beside the next best"),
  refused: sentences.describe("every other host, by the reason"),
  would_change: sentences.describe("what would change the answer"),
  explanation: z.unknown().optional().describe("the scheduler's own record"),
});

function hostRoutes(options: ExtrasOptions): Route[] {
  return [
    defineRoute({
      method: "POST",
      path: `${base}/enrolment-tokens`,
      operationId: "createEnrolmentToken",
      summary: "Make a token that lets one host join; the token itself is shown this once",
      tag: "enrolment-tokens",
      role: "cloud-admin",
      body: z.strictObject({
        name: nameSchema.default("enrolment"),
        labels: labelsSchema.optional(),
        spec: z.unknown(),
      }),
      bodyDoc: z.strictObject({
        name: nameSchema.default("enrolment"),
        labels: labelsSchema.optional(),
        spec: enrolmentToken.spec,
      }),
      answers: {
        201: {
          description: "the token",
          schema: resourceSchema(enrolmentToken).extend({
            token: z.string(),
            gateway: z.string().describe("host:port that the new host's agent dials"),
          }),
        },
      },
      async handle({ ctx, body: { name, labels, spec } }) {
        const input = { name, ...(labels && { labels }), spec: spec ?? {} };
        const { resource, token, gateway } = await options.enrolmentTokens.create(ctx, input);
        return { status: 201, headers: secret, body: { ...toNative(resource), token, gateway } };
      },
    }),
    defineRoute({
      method: "POST",
      path: `${base}/hosts/certificate`,
      operationId: "issueOperatorCertificate",
      summary: "Sign an operator's client certificate for the agents' own gRPC ports",
      tag: "hosts",
      role: "cloud-admin",
      body: z.strictObject({ certificate_request: z.string().min(1).max(maxCertificateRequest) }),
      answers: {
        201: {
          description: "PEM",
          schema: z.object({ certificate: z.string(), authorities: z.string() }),
        },
      },
      async handle({ ctx, body }) {
        const issued = await options.issueOperatorCertificate(ctx, body.certificate_request);
        return { status: 201, headers: secret, body: { ...issued } };
      },
    }),
  ];
}

function uploadRoute({ resources, imageContent }: ExtrasOptions): Route {
  return defineRoute({
    method: "PUT",
    path: `${base}/images/{id}/content`,
    operationId: "uploadImageContent",
    summary: "Upload the content of an image whose source is `upload`",
    tag: "images",
    role: "operator",
    streams: { contentType: "application/octet-stream", description: "qcow2 or raw disk" },
    deadlineMs: () => "none",
    answers: { 200: { description: "stored", schema: resourceSchema(image), name: "Image" } },
    async handle({ ctx, params, request }) {
      const { id } = await resources.get(ctx, image, params["id"] ?? "");
      await imageContent.upload(ctx, id, request);
      return reply(200, await resources.get(ctx, image, id));
    },
  });
}

const secret = { "Cache-Control": "no-store" };
