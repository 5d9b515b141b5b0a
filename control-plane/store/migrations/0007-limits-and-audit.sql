-- How many requests replicas have taken out of a window's allowance. Not worth keeping over a crash.
create unlogged table rate_lease (
  subject      text not null,
  allowance    text not null,
  window_start bigint not null,
  taken        bigint not null,
  primary key (subject, allowance)
);

-- Takes a share of what is left in the window: an eighth, so that little lies idle with replicas that do not
-- need it. A replica whose clock is behind takes from the window that the others are in.
create function lease_rate(p_subject text, p_allowance text, p_start bigint, p_limit bigint)
returns table (granted bigint, taken bigint) language plpgsql as $$
declare
  before bigint;
begin
  insert into rate_lease as l values (p_subject, p_allowance, p_start, 0)
    on conflict (subject, allowance) do update
      set taken = case when l.window_start < excluded.window_start then 0 else l.taken end,
          window_start = greatest(l.window_start, excluded.window_start)
    returning l.taken into before;
  granted := least(greatest((p_limit - before) / 8, 1), greatest(p_limit - before, 0));
  taken := before + granted;
  update rate_lease l set taken = before + granted where subject = p_subject and allowance = p_allowance;
  return next;
end $$;

-- Who did what, or tried to. Written with the change itself; a place in the project's chain is given later,
-- in the order of commits.
create table audit_event (
  id         text primary key,
  tx         xid8 not null default pg_current_xact_id(),
  project    text not null,
  seq        bigint,
  event      jsonb not null,
  hash       text,
  at         timestamptz not null default clock_timestamp(),
  unique (project, seq)
);
create index audit_unchained on audit_event (tx, id) where seq is null;
create index audit_list on audit_event (project, at, id);
create function audit_append_only() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' and old.seq is null and new.seq is not null
     and new.id = old.id and new.project = old.project and new.event = old.event and new.at = old.at then
    return new;
  end if;
  raise exception 'audit events are only ever added';
end $$;
create trigger audit_append_only before update or delete on audit_event
  for each row execute function audit_append_only();

-- The end of each project's chain, signed with a key of tokens.
create table audit_head (
  project   text primary key,
  seq       bigint not null,
  hash      text not null,
  signature text not null,
  kid       text not null,
  at        timestamptz not null default now()
);
