-- What is asked of the database many times for each create, as one question each.

-- Every write under a claim begins with this: the claim holds, and goes on holding until the commit.
create function assert_claim(p_key text, p_epoch bigint) returns void language plpgsql as $$
begin
  perform 1 from work where key = p_key and lease_epoch = p_epoch for share;
  if not found then
    raise exception 'another worker has taken this over' using errcode = 'SK001';
  end if;
end $$;

-- Takes a promise of capacity on a host, or changes the one that is there. Gives what there is too little
-- of, and then nothing has changed; shrinking always succeeds.
create function reserve_capacity(p_resource text, p_host text, p_cpus bigint, p_memory bigint, p_disk bigint)
returns text[] language plpgsql as $$
declare
  room record;
  taken record;
  own record;
  short text[] := '{}';
begin
  -- Locked first, so that what is added up next is newer than every reservation committed before.
  select coalesce(max(c.cpus), 0) as cpus, coalesce(max(c.memory_bytes), 0) as memory, coalesce(max(c.disk_bytes), 0) as disk
    into room from (select * from host_capacity where host_id = p_host for update) c;
  select coalesce(sum(cpus), 0) as cpus, coalesce(sum(memory_bytes), 0) as memory, coalesce(sum(disk_bytes), 0) as disk
    into taken from reservation where host_id = p_host and resource_id <> p_resource;
  select coalesce(max(cpus), 0) as cpus, coalesce(max(memory_bytes), 0) as memory, coalesce(max(disk_bytes), 0) as disk
    into own from reservation where host_id = p_host and resource_id = p_resource;
  if p_cpus > own.cpus and p_cpus > room.cpus - taken.cpus then short := short || 'cpus'::text; end if;
  if p_memory > own.memory and p_memory > room.memory - taken.memory then short := short || 'memory_bytes'::text; end if;
  if p_disk > own.disk and p_disk > room.disk - taken.disk then short := short || 'disk_bytes'::text; end if;
  if cardinality(short) = 0 then
    insert into reservation (resource_id, host_id, cpus, memory_bytes, disk_bytes)
    values (p_resource, p_host, p_cpus, p_memory, p_disk)
    on conflict (resource_id, host_id) do update
      set cpus = excluded.cpus, memory_bytes = excluded.memory_bytes, disk_bytes = excluded.disk_bytes;
  end if;
  return short;
end $$;

-- The same by itself, for a resource that is on no host yet; a promise elsewhere is given back. It does not
-- wait for the disk, so that the host's row is locked for a moment only.
create function promise_capacity(
  p_resource text, p_epoch bigint, p_host text, p_cpus bigint, p_memory bigint, p_disk bigint)
returns text[] language plpgsql as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  perform assert_claim(p_resource, p_epoch);
  delete from reservation where resource_id = p_resource and host_id <> p_host;
  return reserve_capacity(p_resource, p_host, p_cpus, p_memory, p_disk);
end $$;
