-- Every kind of resource: what the user wants (desired), what the owning agent saw (observed), and
-- the phase computed from both. `revision` changes with every write; it is the ETag.
create table resource (
  id                  text primary key,
  kind                text not null,
  project             text not null,
  name                text not null,
  labels              jsonb not null default '{}',
  generation          bigint not null default 1,
  observed_generation bigint not null default 0,
  desired             jsonb not null,
  observed            jsonb,
  refs                jsonb not null default '{}',
  placement           jsonb,
  problem             jsonb,
  phase               text not null,
  host_id             text,
  revision            bigint not null default 1,
  schema_version      int not null default 1,
  created_at          timestamptz not null default now(),
  updated_at          timestamptz not null default now(),
  deleting_at         timestamptz
);
create index resource_list on resource (kind, project, created_at, id);
create index resource_name on resource (kind, project, name);
create index resource_host on resource (host_id) where host_id is not null;
create index resource_refs on resource using gin (refs jsonb_path_ops) where refs <> '{}';
create index resource_aliases on resource using gin ((desired -> 'aliases')) where kind = 'image';
create unique index resource_unique_name on resource (kind, project, name)
  where kind in ('image', 'host') and deleting_at is null;

-- Ids that were erased: a machine that still runs under one of them is an orphan and may be removed;
-- a machine that was never heard of is left alone.
create table tombstone (
  id        text primary key,
  kind      text not null,
  erased_at timestamptz not null default now()
);

-- One copy of an instance on one host, written from that host's reports only. `seq` is the agent's.
create table incarnation (
  resource_id text not null references resource (id) on delete cascade,
  host_id     text not null,
  seq         bigint not null,
  epoch       bigint not null,
  -- the newest intent the host has accepted, and the one it has converged to
  accepted_generation bigint not null,
  generation  bigint not null,
  state       text not null,
  observed    jsonb not null,
  updated_at  timestamptz not null default now(),
  primary key (resource_id, host_id)
);
create index incarnation_host on incarnation (host_id);

-- The set of dirty keys. run_at null: settled. lease_epoch fences every write and every command.
create table work (
  key          text primary key,
  kind         text not null,
  host_id      text,
  priority     int not null default 0,
  run_at       timestamptz,
  dirty_seq    bigint not null default 1,
  attempt      int not null default 0,
  lease_holder text,
  lease_epoch  bigint not null default 0,
  lease_until  timestamptz,
  last_error   jsonb,
  settled_at   timestamptz not null default now()
);
create index work_due on work (priority desc, run_at) where run_at is not null;

create table operation (
  id          text primary key,
  name        text not null,
  version     int not null default 1,
  resource_id text not null,
  kind        text not null,
  project     text not null,
  status      text not null check (status in ('running', 'undoing', 'done', 'undone', 'failed')),
  input       jsonb not null,
  error       jsonb,
  attempt     int not null default 0,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  ended_at    timestamptz
);
create unique index operation_one_active on operation (resource_id) where status in ('running', 'undoing');
create index operation_by_resource on operation (resource_id, created_at);
create index operation_list on operation (project, created_at, id);

create table operation_step (
  operation_id text not null references operation (id) on delete cascade,
  name         text not null,
  position     int not null,
  status       text not null check (status in ('done', 'undone')),
  output       jsonb,
  updated_at   timestamptz not null default now(),
  primary key (operation_id, name)
);

-- Operations read like any other kind.
create view operation_resource as
select o.id, 'operation'::text as kind, o.project, o.name, '{}'::jsonb as labels, 1::bigint as generation,
       1::bigint as observed_generation,
       jsonb_build_object('operation', o.name, 'version', o.version, 'resource_id', o.resource_id, 'resource_kind', o.kind) as desired,
       jsonb_build_object('error', o.error, 'attempt', o.attempt, 'ended_at', o.ended_at,
         'steps', coalesce((select jsonb_agg(jsonb_build_object('name', s.name, 'status', s.status, 'at', s.updated_at) order by s.position)
                            from operation_step s where s.operation_id = o.id), '[]'::jsonb)) as observed,
       '{}'::jsonb as refs, null::jsonb as placement, null::jsonb as problem, o.status as phase, null::text as host_id,
       extract(epoch from o.updated_at)::bigint as revision, 1 as schema_version,
       o.created_at, o.updated_at, null::timestamptz as deleting_at
from operation o;

-- Events leave in commit order: a reader takes rows whose transaction is older than every running one.
create table outbox (
  id         bigint generated always as identity primary key,
  tx         xid8 not null default pg_current_xact_id(),
  event_id   text not null,
  type       text not null,
  resource_id text not null,
  kind       text not null,
  project    text not null,
  payload    jsonb not null,
  created_at timestamptz not null default now()
);
create index outbox_order on outbox (tx, id);
create index outbox_created on outbox (created_at);

-- What a host may promise (after overcommit) and what was promised to whom.
create table host_capacity (
  host_id      text primary key,
  cpus         bigint not null,
  memory_bytes bigint not null,
  disk_bytes   bigint not null,
  updated_at   timestamptz not null default now()
);
create table reservation (
  resource_id  text not null,
  host_id      text not null,
  cpus         bigint not null,
  memory_bytes bigint not null,
  disk_bytes   bigint not null,
  created_at   timestamptz not null default now(),
  primary key (resource_id, host_id)
);
create index reservation_host on reservation (host_id) include (cpus, memory_bytes, disk_bytes);

create table idempotency (
  account      text not null,
  key          text not null,
  request_hash text not null,
  status       int not null,
  headers      jsonb not null,
  body         jsonb,
  created_at   timestamptz not null default now(),
  primary key (account, key)
);
create index idempotency_created on idempotency (created_at);

-- Which replica holds a host's connection, and when the host was last heard of.
create table replica (
  id         text primary key,
  url        text not null,
  last_seen  timestamptz not null default now()
);
create table host_session (
  host_id      text primary key,
  replica_id   text,
  session_id   text,
  connected_at timestamptz,
  last_seen    timestamptz not null default now()
);

create table machine_sample (
  machine_id text not null,
  at         timestamptz not null,
  sample     jsonb not null,
  primary key (machine_id, at)
);
create index machine_sample_at on machine_sample (at);
create table host_sample (
  host_id text not null,
  at      timestamptz not null,
  sample  jsonb not null,
  primary key (host_id, at)
);
create index host_sample_at on host_sample (at);

-- Content that was uploaded: chunks of 1 MiB, addressed by SHA-256 once complete.
create table blob (
  id         text primary key,
  sha256     text unique,
  size_bytes bigint not null default 0,
  created_at timestamptz not null default now()
);
create table blob_chunk (
  blob_id  text not null references blob (id) on delete cascade,
  position int not null,
  data     bytea not null,
  primary key (blob_id, position)
);
alter table blob_chunk alter column data set storage external;

create table account (
  id            text primary key,
  username      text not null unique,
  password_hash text not null,
  role          text not null,
  project       text not null,
  failed_logins int not null default 0,
  locked_until  timestamptz,
  created_at    timestamptz not null default now()
);
create table api_key (
  id           text primary key,
  account_id   text not null references account (id) on delete cascade,
  secret_hash  text not null unique,
  name         text not null,
  created_at   timestamptz not null default now(),
  last_used_at timestamptz
);
create table refresh_token (
  token_hash text primary key,
  family     text not null,
  account_id text not null references account (id) on delete cascade,
  used_at    timestamptz,
  expires_at timestamptz not null,
  created_at timestamptz not null default now()
);
create index refresh_token_family on refresh_token (family);

-- Keys of the cloud itself: 'ca' (certificate authority) and 'jwt' (token signing).
create table cloud_key (
  name        text primary key,
  private_pem text not null,
  public_pem  text not null,
  created_at  timestamptz not null default now()
);


-- What a host may promise follows from what it has and how far its owner lets it overcommit; no writer of
-- either can forget it.
create function host_capacity_follow() returns trigger language plpgsql as $$
begin
  insert into host_capacity (host_id, cpus, memory_bytes, disk_bytes)
  values (new.id,
    floor((new.observed #>> '{capacity,cpus}')::numeric * (new.desired #>> '{overcommit,cpus}')::numeric),
    floor((new.observed #>> '{capacity,memory_bytes}')::numeric * (new.desired #>> '{overcommit,memory}')::numeric),
    floor((new.observed #>> '{capacity,disk_bytes}')::numeric * (new.desired #>> '{overcommit,disk}')::numeric))
  on conflict (host_id) do update set cpus = excluded.cpus, memory_bytes = excluded.memory_bytes,
    disk_bytes = excluded.disk_bytes, updated_at = now();
  return null;
end $$;
create trigger host_capacity_follow after insert or update of desired, observed on resource
  for each row when (new.kind = 'host' and new.observed is not null) execute function host_capacity_follow();
create function host_capacity_forget() returns trigger language plpgsql as $$
begin
  delete from host_capacity where host_id = old.id;
  delete from host_session where host_id = old.id;
  return null;
end $$;
create trigger host_capacity_forget after delete on resource
  for each row when (old.kind = 'host') execute function host_capacity_forget();
