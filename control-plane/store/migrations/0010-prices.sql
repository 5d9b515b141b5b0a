-- The price sheet: resources of kind `price`. A region's own price comes before its provider's, and a host's own
-- before both; whoever changes the sheet changes how those hosts look to the scheduler.
create index resource_price on resource ((desired ->> 'provider')) where kind = 'price';

create function price_changes_hosts() returns trigger language plpgsql as $$
begin
  insert into host_change (host_id) select id from resource
  where kind = 'host' and desired ->> 'provider' in (new.desired ->> 'provider', old.desired ->> 'provider');
  return null;
end $$;
create trigger price_comes after insert on resource
  for each row when (new.kind = 'price') execute function price_changes_hosts();
create trigger price_changes after update of desired, deleting_at on resource
  for each row when (new.kind = 'price') execute function price_changes_hosts();
create trigger price_goes after delete on resource
  for each row when (old.kind = 'price') execute function price_changes_hosts();
