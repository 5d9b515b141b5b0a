-- GPUs that a host gives to containers are apart from those that its hypervisor gives to guests: they are counted by
-- what its agent has found, and promised like CPUs.
alter table host_capacity add column container_gpus bigint not null default 0;
alter table reservation add column container_gpus bigint not null default 0;

create or replace function host_capacity_follow() returns trigger language plpgsql as $$
begin
  insert into host_capacity (host_id, cpus, memory_bytes, disk_bytes, gpus, container_gpus)
  values (new.id,
    floor((new.observed #>> '{capacity,cpus}')::numeric * (new.desired #>> '{overcommit,cpus}')::numeric),
    floor((new.observed #>> '{capacity,memory_bytes}')::numeric * (new.desired #>> '{overcommit,memory}')::numeric),
    floor((new.observed #>> '{capacity,disk_bytes}')::numeric * (new.desired #>> '{overcommit,disk}')::numeric),
    coalesce((new.desired #>> '{gpus,count}')::bigint, 0),
    coalesce(jsonb_array_length(new.observed #> '{containers,gpus}'), 0))
  on conflict (host_id) do update set cpus = excluded.cpus, memory_bytes = excluded.memory_bytes,
    disk_bytes = excluded.disk_bytes, gpus = excluded.gpus, container_gpus = excluded.container_gpus, updated_at = now();
  return null;
end $$;

-- As before, with the GPUs of workloads.
create or replace function reserve_capacity(p_resource text, p_host text, p_cpus bigint, p_memory bigint, p_disk bigint)
returns text[] language plpgsql as $$
declare
  owner text;
  wish jsonb;
  wished_gpus bigint := 0;
  wished_container_gpus bigint := 0;
  in_groups text[] := '{}';
  keeps_apart text[] := '{}';
  stays_together text[] := '{}';
  room record;
  taken record;
  short text[] := '{}';
begin
  select project, desired -> 'constraints', case kind when 'workload' then coalesce((desired ->> 'gpus')::bigint, 0) else 0 end
    into owner, wish, wished_container_gpus from resource where id = p_resource;
  if jsonb_typeof(wish -> 'gpu') = 'object' then
    wished_gpus := (wish #>> '{gpu,count}')::bigint;
  end if;
  if jsonb_typeof(wish -> 'groups') = 'array' and wish -> 'groups' <> '[]' then
    select array_agg(key), coalesce(array_agg(key) filter (where rule = 'different-hosts'), '{}'),
        coalesce(array_agg(key order by key) filter (where rule = 'same-host'), '{}')
      into in_groups, keeps_apart, stays_together
      from (select owner || '/' || (g ->> 'name') as key, g ->> 'rule' as rule from jsonb_array_elements(wish -> 'groups') g) w;
  end if;
  -- Two that are to share a host may be promised room on two of them at once: they take turns.
  if stays_together <> '{}' then
    perform pg_advisory_xact_lock(hashtextextended(key, 0)) from unnest(stays_together) key;
    if exists (select 1 from reservation where groups && stays_together and resource_id <> p_resource and host_id <> p_host) then
      return '{group}';
    end if;
  end if;
  -- Locked first, so that what is added up next is newer than every reservation committed before.
  select coalesce(max(c.cpus), 0) as cpus, coalesce(max(c.memory_bytes), 0) as memory, coalesce(max(c.disk_bytes), 0) as disk,
      coalesce(max(c.gpus), 0) as gpus, coalesce(max(c.container_gpus), 0) as container_gpus
    into room from (select * from host_capacity where host_id = p_host for update) c;
  select coalesce(sum(cpus) filter (where other), 0) as cpus, coalesce(max(cpus) filter (where not other), 0) as own_cpus,
      coalesce(sum(memory_bytes) filter (where other), 0) as memory,
      coalesce(max(memory_bytes) filter (where not other), 0) as own_memory,
      coalesce(sum(disk_bytes) filter (where other), 0) as disk,
      coalesce(max(disk_bytes) filter (where not other), 0) as own_disk,
      coalesce(sum(gpus) filter (where other), 0) as gpus, coalesce(max(gpus) filter (where not other), 0) as own_gpus,
      coalesce(sum(container_gpus) filter (where other), 0) as container_gpus,
      coalesce(max(container_gpus) filter (where not other), 0) as own_container_gpus
    into taken from (select *, resource_id <> p_resource as other from reservation where host_id = p_host) r;
  if p_cpus > taken.own_cpus and p_cpus > room.cpus - taken.cpus then short := short || 'cpus'::text; end if;
  if p_memory > taken.own_memory and p_memory > room.memory - taken.memory then short := short || 'memory_bytes'::text; end if;
  if p_disk > taken.own_disk and p_disk > room.disk - taken.disk then short := short || 'disk_bytes'::text; end if;
  if wished_gpus > taken.own_gpus and wished_gpus > room.gpus - taken.gpus then short := short || 'gpus'::text; end if;
  if wished_container_gpus > taken.own_container_gpus and wished_container_gpus > room.container_gpus - taken.container_gpus then
    short := short || 'container_gpus'::text;
  end if;
  if in_groups <> '{}' and exists (
      select 1 from reservation where host_id = p_host and resource_id <> p_resource
        and (groups && keeps_apart or apart && in_groups)) then
    short := short || 'group'::text;
  end if;
  if short = '{}' then
    insert into reservation (resource_id, host_id, cpus, memory_bytes, disk_bytes, gpus, container_gpus, groups, apart)
    values (p_resource, p_host, p_cpus, p_memory, p_disk, wished_gpus, wished_container_gpus, in_groups, keeps_apart)
    on conflict (resource_id, host_id) do update
      set cpus = excluded.cpus, memory_bytes = excluded.memory_bytes, disk_bytes = excluded.disk_bytes;
  end if;
  return short;
end $$;
