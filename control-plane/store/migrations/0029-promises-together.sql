-- Several promises as one question, for those that nothing stands in the way of: who holds the claim, asks for neither
-- GPUs nor company, has no promise yet and finds room on a host that nobody else is promising at the moment. It waits
-- for no lock and refuses nobody: gives those that have their promise now, and the rest ask each for itself.
create function promise_together(
  p_resources text[], p_epochs bigint[], p_hosts text[], p_cpus bigint[], p_memory bigint[], p_disk bigint[])
returns setof text language plpgsql as $$
declare
  claimed text[];
  free text[];
begin
  perform set_config('synchronous_commit', 'off', true);
  select array_agg(key) into claimed from (
    select key from work where key = any(p_resources) and lease_epoch = p_epochs[array_position(p_resources, key)]
    for share skip locked) c;
  select array_agg(host_id) into free from (
    select host_id from host_capacity where host_id = any(p_hosts) for update skip locked) c;
  -- A statement of its own: what is added up is newer than every reservation that was committed before the lock.
  return query
    insert into reservation (resource_id, host_id, cpus, memory_bytes, disk_bytes)
    select a.resource, a.host, a.cpus, a.memory, a.disk
    from (select u.*, sum(cpus) over before as all_cpus, sum(memory) over before as all_memory, sum(disk) over before as all_disk
          from unnest(p_resources, p_hosts, p_cpus, p_memory, p_disk) with ordinality u(resource, host, cpus, memory, disk, n)
          where resource = any(claimed) and host = any(free) and n = array_position(p_resources, resource)
          window before as (partition by host order by n)) a
    -- Looked up one by one: joined, all of a table might be read.
    cross join lateral (select * from host_capacity where host_id = a.host limit 1) c
    cross join lateral (select coalesce(sum(cpus), 0) as cpus, coalesce(sum(memory_bytes), 0) as memory,
        coalesce(sum(disk_bytes), 0) as disk from reservation where host_id = a.host) taken
    where a.all_cpus <= c.cpus - taken.cpus and a.all_memory <= c.memory_bytes - taken.memory
      and a.all_disk <= c.disk_bytes - taken.disk
      and (select count(*) from reservation where resource_id = a.resource) = 0
      and (select coalesce(desired #> '{constraints,gpu}', 'null') = 'null'
             and coalesce(desired #> '{constraints,groups}', '[]') = '[]' from resource where id = a.resource)
    on conflict do nothing
    returning resource_id;
end $$;
