-- Which hosts look different to the scheduler since when. Appended by whatever changes a host, what it may
-- promise or what it has promised, so that every replica can keep its own picture without reading all of it;
-- a reader takes what `tx` says is new and then looks at the hosts themselves.
create table host_change (
  host_id    text not null,
  tx         xid8 not null default pg_current_xact_id(),
  created_at timestamptz not null default now()
);
create index host_change_tx on host_change (tx) include (host_id);
create index host_change_created on host_change (created_at);

create function reservation_changes_host() returns trigger language plpgsql as $$
begin
  insert into host_change (host_id) values (coalesce(new.host_id, old.host_id));
  return null;
end $$;
create trigger reservation_changes_host after insert or update or delete on reservation
  for each row execute function reservation_changes_host();

create function host_changes() returns trigger language plpgsql as $$
begin
  insert into host_change (host_id) values (coalesce(new.id, old.id));
  return null;
end $$;
create trigger host_comes after insert on resource
  for each row when (new.kind = 'host') execute function host_changes();
create trigger host_changes after update of desired, observed, deleting_at on resource
  for each row when (new.kind = 'host') execute function host_changes();
create trigger host_goes after delete on resource
  for each row when (old.kind = 'host') execute function host_changes();
