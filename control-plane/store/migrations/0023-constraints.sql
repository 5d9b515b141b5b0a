-- GPUs are promised like CPUs; and what belongs to a group (`project/name`) keeps to its rules when it is promised room.
alter table host_capacity add column gpus bigint not null default 0;
alter table reservation add column gpus bigint not null default 0,
  add column groups text[] not null default '{}',
  add column apart text[] not null default '{}';
create index reservation_groups on reservation using gin (groups) where groups <> '{}';

create or replace function host_capacity_follow() returns trigger language plpgsql as $$
begin
  insert into host_capacity (host_id, cpus, memory_bytes, disk_bytes, gpus)
  values (new.id,
    floor((new.observed #>> '{capacity,cpus}')::numeric * (new.desired #>> '{overcommit,cpus}')::numeric),
    floor((new.observed #>> '{capacity,memory_bytes}')::numeric * (new.desired #>> '{overcommit,memory}')::numeric),
    floor((new.observed #>> '{capacity,disk_bytes}')::numeric * (new.desired #>> '{overcommit,disk}')::numeric),
    coalesce((new.desired #>> '{gpus,count}')::bigint, 0))
  on conflict (host_id) do update set cpus = excluded.cpus, memory_bytes = excluded.memory_bytes,
    disk_bytes = excluded.disk_bytes, gpus = excluded.gpus, updated_at = now();
  return null;
end $$;

-- As before, with the constraints of the resource looked up: whoever takes a promise cannot forget them.
create or replace function reserve_capacity(p_resource text, p_host text, p_cpus bigint, p_memory bigint, p_disk bigint)
returns text[] language plpgsql as $$
declare
  room record;
  taken record;
  own record;
  wish record;
  short text[] := '{}';
begin
  select coalesce((c #>> '{gpu,count}')::bigint, 0) as gpus,
      array(select project || '/' || (g ->> 'name') from jsonb_array_elements(c -> 'groups') g) as groups,
      array(select project || '/' || (g ->> 'name') from jsonb_array_elements(c -> 'groups') g
            where g ->> 'rule' = 'different-hosts') as apart,
      array(select project || '/' || (g ->> 'name') from jsonb_array_elements(c -> 'groups') g
            where g ->> 'rule' = 'same-host' order by 1) as together
    into wish from (select project, desired -> 'constraints' as c from resource where id = p_resource) r;
  -- Two that are to share a host may be promised room on two of them at once: they take turns.
  if cardinality(wish.together) > 0 then
    perform pg_advisory_xact_lock(hashtextextended(key, 0)) from unnest(wish.together) key;
    if exists (select 1 from reservation where groups && wish.together and resource_id <> p_resource and host_id <> p_host) then
      return '{group}';
    end if;
  end if;
  -- Locked first, so that what is added up next is newer than every reservation committed before.
  select coalesce(max(c.cpus), 0) as cpus, coalesce(max(c.memory_bytes), 0) as memory, coalesce(max(c.disk_bytes), 0) as disk,
      coalesce(max(c.gpus), 0) as gpus
    into room from (select * from host_capacity where host_id = p_host for update) c;
  select coalesce(sum(cpus), 0) as cpus, coalesce(sum(memory_bytes), 0) as memory, coalesce(sum(disk_bytes), 0) as disk,
      coalesce(sum(gpus), 0) as gpus
    into taken from reservation where host_id = p_host and resource_id <> p_resource;
  select coalesce(max(cpus), 0) as cpus, coalesce(max(memory_bytes), 0) as memory, coalesce(max(disk_bytes), 0) as disk,
      coalesce(max(gpus), 0) as gpus
    into own from reservation where host_id = p_host and resource_id = p_resource;
  if p_cpus > own.cpus and p_cpus > room.cpus - taken.cpus then short := short || 'cpus'::text; end if;
  if p_memory > own.memory and p_memory > room.memory - taken.memory then short := short || 'memory_bytes'::text; end if;
  if p_disk > own.disk and p_disk > room.disk - taken.disk then short := short || 'disk_bytes'::text; end if;
  if wish.gpus > own.gpus and wish.gpus > room.gpus - taken.gpus then short := short || 'gpus'::text; end if;
  if cardinality(wish.groups) > 0 and exists (
      select 1 from reservation where host_id = p_host and resource_id <> p_resource
        and (groups && wish.apart or apart && wish.groups)) then
    short := short || 'group'::text;
  end if;
  if cardinality(short) = 0 then
    insert into reservation (resource_id, host_id, cpus, memory_bytes, disk_bytes, gpus, groups, apart)
    values (p_resource, p_host, p_cpus, p_memory, p_disk, coalesce(wish.gpus, 0),
      coalesce(wish.groups, '{}'), coalesce(wish.apart, '{}'))
    on conflict (resource_id, host_id) do update
      set cpus = excluded.cpus, memory_bytes = excluded.memory_bytes, disk_bytes = excluded.disk_bytes;
  end if;
  return short;
end $$;

-- Instances that are older than constraints have none.
update resource set desired = desired || jsonb_build_object('constraints', jsonb_build_object('near', null, 'countries', '[]'::jsonb,
  'max_price', null, 'gpu', null, 'tolerations', '[]'::jsonb, 'groups', '[]'::jsonb))
where kind = 'instance' and not desired ? 'constraints';
